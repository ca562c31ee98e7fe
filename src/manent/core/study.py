"""A study as a declaration: what is computed, on whom, behind which guards."""

from __future__ import annotations

import hashlib
import typing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manent.core import validate
from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput
from manent.core.protocols import Algorithm, Layer, PrivacyBudget, Summation


@dataclass(frozen=True)
class Cohort:
    """Who takes part in each sum. With neither size nor sampling_probability it is everyone (in the group whose turn it is).

    Attributes:
        size: this many clients, drawn without replacement.
        sampling_probability: each client is drawn independently with this probability, in (0, 1] (Poisson sampling). A cohort
            may then be empty.
        minimum: the fewest answers with which a sum is released. A sum with fewer is abandoned.
        maximum: only with sampling_probability: if more clients than this are drawn, so many of them, at random, are asked.
        min_separation: the fewest rounds between two participations of a client. The clients are dealt at random, once, into this
            many groups, which take turns; each sum's cohort is drawn from the group whose turn it is. So in r rounds no client
            takes part more than ceil(r / min_separation) times.

    Raises InvalidInput for numbers out of range, and for settings that exclude each other.
    """

    size: int | None = None
    sampling_probability: float | None = None
    minimum: int = 1
    maximum: int | None = None
    min_separation: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.sampling_probability is not None:
            raise InvalidInput("Cohort takes size or sampling_probability, not both. Leave one of them out.")
        if self.size is not None:
            validate.count("Cohort", "size", self.size, " or None (everyone)")
        if self.sampling_probability is not None:
            validate.fraction("Cohort", "sampling_probability", self.sampling_probability, zero=False)
        validate.count("Cohort", "minimum", self.minimum)
        if self.maximum is not None:
            validate.count("Cohort", "maximum", self.maximum, " or None (no limit)")
            if self.sampling_probability is None:
                raise InvalidInput(
                    f"Cohort takes maximum only with sampling_probability; found maximum={self.maximum}. Use size instead."
                )
        if self.min_separation is not None:
            validate.count("Cohort", "min_separation", self.min_separation, " or None (any)")
            if self.sampling_probability is not None:
                raise InvalidInput(
                    "Cohort takes min_separation alone or with size, not with sampling_probability. Leave one of them out."
                )

    def check(self, clients: int) -> None:
        """Raises InvalidInput where so few clients cannot fill the cohort, or can never give the fewest answers."""
        turn = clients // (self.min_separation or 1)  # the smallest group
        largest = min(turn, self.size or clients, self.maximum or clients)
        if self.size is not None and self.size > clients:
            raise InvalidInput(f"Cohort asks for {self.size} clients, but the data have {clients}; ask for fewer.")
        if self.min_separation is not None and (self.size or 1) > turn:
            raise InvalidInput(
                f"Cohort asks for {self.size or 'all'} of a group, but {clients} clients in {self.min_separation} groups leave "
                f"{turn} in the smallest. Use min_separation <= {clients // (self.size or 1)}."
            )
        if self.minimum > largest:
            raise InvalidInput(f"Cohort expects at least {self.minimum} answers, but at most {largest} clients are asked.")

    def turn(self, clients: int, round: int, dealing: np.random.Generator) -> tuple[int, ...] | None:
        """Sorted indices of the clients whose turn it is in a round; None where there is no min_separation.

        Args:
            clients: how many there are.
            round: counted from 1.
            dealing: deals the clients into groups. It must be in the same state in every round of a run, so that the groups are
                the same too.
        """
        if self.min_separation is None:
            return None
        dealt = dealing.permutation(clients)[(round - 1) % self.min_separation :: self.min_separation]
        return tuple(sorted(int(i) for i in dealt))

    def draw(self, clients: int, rng: np.random.Generator, turn: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Sorted indices of the clients of one sum.

        Args:
            clients: how many there are.
            rng: decides who is drawn.
            turn: with min_separation, the clients to draw from, as `turn` gives them.

        Raises InvalidInput where the cohort has min_separation and `turn` is None.
        """
        if self.min_separation is not None:
            if turn is None:
                raise InvalidInput("A cohort with min_separation is drawn from a group; pass turn=cohort.turn(...).")
            if self.size is None:
                return turn
            return tuple(sorted(int(i) for i in rng.choice(np.asarray(turn), self.size, replace=False)))
        if self.size is not None:
            return tuple(sorted(int(i) for i in rng.choice(clients, self.size, replace=False)))
        if self.sampling_probability is not None:
            drawn = np.flatnonzero(rng.random(clients) < self.sampling_probability)
            if self.maximum is not None and len(drawn) > self.maximum:
                drawn = np.sort(rng.choice(drawn, self.maximum, replace=False))
            return tuple(int(i) for i in drawn)
        return tuple(range(clients))


@dataclass(frozen=True)
class Study:
    """What is computed, on whom, behind which guards. It does not say which machines run it.

    Attributes:
        algorithm: what is computed, and how each sum changes the state.
        rounds: how many rounds, at least 1 (a query takes one).
        cohort: who takes part in each sum.
        layers: what is done to a client's vector before it is summed, in order, and undone after.
        summation: how the vectors are brought together, and so who can see them. None means the plain sum.
        name: for people; part of the hash.
        budget: the differential privacy that the result must have. The noise is derived from it.

    Raises InvalidInput unless rounds is a whole number of at least 1, and for a part of a wrong kind. A part of one's own is
    welcome: it needs the members of its protocol (`core.protocols`), and no base class.
    """

    algorithm: Algorithm
    rounds: int = 1
    cohort: Cohort = field(default_factory=Cohort)
    layers: tuple[Layer, ...] | list[Layer] = ()
    summation: Summation | None = None
    name: str = ""
    budget: PrivacyBudget | None = None

    def __post_init__(self) -> None:
        validate.count("Study", "rounds", self.rounds)
        validate.part("Study", "algorithm", self.algorithm, "an algorithm", ("sums", "answer"), "FedAvg(model, local)")
        validate.part("Study", "cohort", self.cohort, "a cohort", ("draw", "turn"), "Cohort(size=10)")
        if not isinstance(self.layers, (tuple, list)):
            raise InvalidInput(
                f"Study expects layers as a list; found {validate.shown(self.layers)}. Write layers=[...], with one layer too."
            )
        for layer in self.layers:
            validate.part("Study", "a member of layers", layer, "a layer", ("enter",), "Clip(norm=1.0)")
        if self.summation is not None:
            validate.part("Study", "summation", self.summation, "a summation or None", ("init", "bits"), "SecAgg()")
        if self.budget is not None:
            example = "Budget(epsilon=3.0, delta=1e-6, privacy_unit='client', neighboring_relation='add_or_remove')"
            validate.part("Study", "budget", self.budget, "a budget or None", ("epsilon", "delta", "against"), example)
        object.__setattr__(self, "layers", tuple(self.layers))

    def to_plain(self) -> dict[str, Any]:
        """The study as plain data: JSON values only. Raises InvalidInput for a part that cannot be written so."""
        return typing.cast("dict[str, Any]", to_plain(self, skip_own=True))

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical form, in hexadecimal: equal for studies that declare the same."""
        return hashlib.sha256(canonical(self.to_plain())).hexdigest()
