"""The statement: who sees what of a study, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from manent.accounting import Attack
from manent.core.canonical import to_plain
from manent.core.observers import ObserverName

HIGH = 20.0
"""An epsilon above this is a formality: nobody would call what it allows protection."""


@dataclass(frozen=True)
class SumLine:
    """One kind of sum.

    Attributes:
        purpose: for people, what is summed.
        every: the sum is formed once in so many rounds.
        blocks: name and size of each block of a client's vector, as it is summed.
    """

    name: str
    purpose: str
    every: int
    blocks: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        """How many numbers a client sends."""
        return sum(size for _, size in self.blocks)


@dataclass(frozen=True)
class Observer:
    """Someone who looks, what they see, and the differential privacy that holds against them.

    Attributes:
        name: "server", "clients" (any other client) or "public"; and where some are declared to collude, "colluders" and "server
            and colluders".
        sees: in words, what they see and hold. They take what they know off what is released.
        epsilon, delta: the guarantee, or None where there is none.
        accountant: who computed the guarantee, with its version.
        assumptions: what the guarantee takes for granted.
        why: what the guarantee rests on, or why there is none.
        attacks: what epsilon and delta mean: of members, how many any attack finds at most; see `accounting.attacks`.
    """

    name: ObserverName
    sees: str
    epsilon: float | None = None
    delta: float | None = None
    accountant: str = ""
    assumptions: tuple[str, ...] = ()
    why: str = ""
    attacks: tuple[Attack, ...] = ()


@dataclass(frozen=True)
class Protection:
    """The differential privacy of a study: whose data it protects, against which change, by how much noise.

    Attributes:
        privacy_unit: whose data: "client" or "example".
        neighboring_relation: which change of the data.
        noise_multiplier: the noise, relative to the sensitivity.
        noise_stddev: by the name of a sum, the noise in its total, at least, in the unit of its vectors, or in `noise_unit`.
        releases: how many sums are released, at most.
        divisor: what the totals are divided by; public.
        noise_unit: what `noise_stddev` counts in, where that is not the unit of the vectors: the clip norm, for AdaptiveClip.
    """

    privacy_unit: str
    neighboring_relation: str
    noise_multiplier: float
    noise_stddev: tuple[tuple[str, float], ...]
    releases: int
    divisor: float
    noise_unit: str = ""


@dataclass(frozen=True)
class Statement:
    """What `check` found out about a study. `str()` gives the form for people, `to_plain()` the one for programs.

    Attributes:
        study: hash of the study as it was declared, in hexadecimal.
        clients: how many there are.
        rounds: how many there are.
        cohort: in words, who takes part in each sum.
        summation: its name.
        layers: their names, in order.
        sums: every kind of sum.
        observers: who sees what, and which guarantee holds against them.
        not_covered: what no guarantee covers.
        protection: the differential privacy, or None where there is none.
        epsilon_is: what the epsilons are about: "of the study"; "if deployed", for a simulation; or "none", where none holds.
        summing: what the protection of the summation rests on.
        granted: what is taken for granted beside the assumptions of the observers' guarantees, such as who takes part.
    """

    study: str
    clients: int
    rounds: int
    cohort: str
    summation: str
    layers: tuple[str, ...]
    sums: tuple[SumLine, ...]
    observers: tuple[Observer, ...]
    not_covered: tuple[str, ...]
    protection: Protection | None = None
    epsilon_is: str = "of the study"
    summing: tuple[str, ...] = ()
    granted: tuple[str, ...] = ()

    def deployed(self, granted: str) -> Statement:
        """The statement of a study in a federation, with what is taken for granted about who takes part."""
        return replace(self, granted=(*self.granted, granted))

    def simulated(self) -> Statement:
        """The statement of a run on one machine, whose epsilons would hold if the study were deployed."""
        if self.protection is None:
            return self
        note = "This is a simulation: one machine holds all data, and cohorts follow from a seed, which is no secret."
        return replace(self, epsilon_is="if deployed", not_covered=(*self.not_covered, note))

    def without_epsilon(self, reason: str) -> Statement:
        """The statement of a run in which no epsilon holds, for a reason that is given in words."""
        nothing: dict[str, Any] = {"epsilon": None, "delta": None, "accountant": "", "assumptions": (), "attacks": ()}
        observers = tuple(replace(o, why=reason, **nothing) for o in self.observers)
        return replace(self, observers=observers, epsilon_is="none", not_covered=(reason, *self.not_covered))

    def to_plain(self) -> dict[str, Any]:
        """JSON values only."""
        return {str(name): value for name, value in to_plain(self, skip_own=True).items() if name != "type"}

    def __str__(self) -> str:
        lines = [
            f"Study {self.study[:12]}: {self.rounds} round{'s' * (self.rounds > 1)}, {self.cohort} of {self.clients} clients.",
            "",
            "What is summed",
        ]
        for line in self.sums:
            often = "every round" if line.every == 1 else f"every {line.every} rounds"
            blocks = ", ".join(f"{name} {size:,}" for name, size in line.blocks)
            lines += [f"  {line.name} ({often}): {line.purpose}", f"    {line.size:,} numbers a client: {blocks}"]
        lines += ["", f"Summation: {self.summation}. Layers: {', '.join(self.layers) or 'none'}."]
        lines += [f"  - {line}" for line in self.summing]
        lines += self._protection()
        lines += ["", "Who sees what"]
        width = max(len(observer.name) for observer in self.observers)
        for observer in self.observers:
            lines.append(f"  {observer.name:<{width}}  {observer.sees} ({self._epsilon(observer)})")
            if observer.attacks:
                lines.append(f"  {'':<{width}}  An attack that is {'; '.join(map(str, observer.attacks))}.")
            if observer.why:
                lines.append(f"  {'':<{width}}  {observer.why}")
        assumed = (*self.granted, *dict.fromkeys(line for observer in self.observers for line in observer.assumptions))
        if assumed:
            lines += ["", "Taken for granted", *(f"  - {line}" for line in assumed)]
        lines += ["", "Not covered", *(f"  - {line}" for line in self.not_covered)]
        return "\n".join(lines)

    def _protection(self) -> list[str]:
        found = self.protection
        if found is None:
            return []
        lines = [
            f"Differential privacy for each {found.privacy_unit}, {found.neighboring_relation}: noise multiplier "
            f"{found.noise_multiplier:.4g}, {found.releases} release{'s' * (found.releases > 1)}."
        ]
        if found.noise_stddev:
            unit = f"times {found.noise_unit} " if found.noise_unit else ""
            noise = ", ".join(f"{name} {stddev:.4g}" for name, stddev in found.noise_stddev)
            divided = f"The divisor of totals is {found.divisor:g}, and public."
            lines.append(f"Noise on each total: {noise} {unit}(deviation or scale). {divided}")
        return lines

    def _epsilon(self, observer: Observer) -> str:
        if observer.epsilon is None:
            return "no differential privacy"
        deployed = " if deployed" if self.epsilon_is == "if deployed" else ""
        formal = "; formal, no meaningful protection" if observer.epsilon > HIGH else ""
        return f"epsilon {observer.epsilon:.3g}{deployed}, delta {observer.delta:g}, by {observer.accountant}{formal}"
