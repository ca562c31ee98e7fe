"""The statement: who sees what of a study, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manent.core.study import plain


@dataclass(frozen=True)
class SumLine:
    """One kind of sum: its name, how often it is formed, and the size of each block of a client's vector."""

    name: str
    purpose: str
    every: int
    blocks: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.blocks)


@dataclass(frozen=True)
class Observer:
    """Someone who looks, what they see, and the differential privacy that holds against them.

    Attributes:
        epsilon, delta: the guarantee, or None where there is none.
    """

    name: str
    sees: str
    epsilon: float | None = None
    delta: float | None = None


@dataclass(frozen=True)
class Statement:
    """What `check` found out about a study. `str()` is the form for people, `plain()` the one for programs."""

    study: str
    clients: int
    rounds: int
    cohort: str
    summation: str
    layers: tuple[str, ...]
    sums: tuple[SumLine, ...]
    observers: tuple[Observer, ...]
    not_covered: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """JSON values only."""
        return {str(name): value for name, value in plain(self, skip_own=True).items() if name != "type"}

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
        lines += ["", f"Summation: {self.summation}. Layers: {', '.join(self.layers) or 'none'}.", "", "Who sees what"]
        width = max(len(observer.name) for observer in self.observers)
        for observer in self.observers:
            epsilon = (
                "no differential privacy"
                if observer.epsilon is None
                else f"epsilon {observer.epsilon:.3g}, delta {observer.delta}"
            )
            lines.append(f"  {observer.name:<{width}}  {observer.sees} ({epsilon})")
        lines += ["", "Not covered", *(f"  - {line}" for line in self.not_covered)]
        return "\n".join(lines)
