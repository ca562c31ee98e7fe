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
    """Who takes part in each sum.

    Attributes:
        size: a fixed number, drawn without replacement.
        sampling_probability: each client independently with this probability (Poisson); a cohort may be empty.
        minimum: the fewest answers with which a sum is released; with fewer it is abandoned.
        maximum: of more clients than this, only so many, at random, are asked (with sampling_probability).
        min_separation: the fewest rounds from one participation of a client to its next. The clients are dealt into so many
            groups, once and at random, and the groups take turns; a sum's cohort is drawn from the group whose turn it is. So in
            r rounds nobody takes part more than ceil(r / min_separation) times, whoever answers.

    With neither size nor sampling_probability, everyone (whose turn it is) takes part.
    """

    size: int | None = None
    sampling_probability: float | None = None
    minimum: int = 1
    maximum: int | None = None
    min_separation: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.sampling_probability is not None:
            raise InvalidInput("Cohort takes size or sampling_probability, not both.")
        if self.size is not None:
            validate.count("Cohort", "size", self.size, " or None (everyone)")
        if self.sampling_probability is not None:
            validate.fraction("Cohort", "sampling_probability", self.sampling_probability, zero=False)
        validate.count("Cohort", "minimum", self.minimum)
        if self.maximum is not None:
            validate.count("Cohort", "maximum", self.maximum, " or None (no limit)")
            if self.sampling_probability is None:
                raise InvalidInput(f"Cohort takes maximum with sampling_probability only; found maximum={self.maximum}.")
        if self.min_separation is not None:
            validate.count("Cohort", "min_separation", self.min_separation, " or None (any)")
            if self.sampling_probability is not None:
                raise InvalidInput("Cohort takes min_separation with size or by itself; a Poisson cohort keeps no distance.")

    def check(self, clients: int) -> None:
        """Raises InvalidInput where a population of this many clients cannot fill the cohort."""
        turn = clients // (self.min_separation or 1)  # the smallest group
        largest = min(turn, self.size or clients, self.maximum or clients)
        if self.size is not None and self.size > clients:
            raise InvalidInput(f"Cohort asks for {self.size} clients, but the data have {clients}; ask for fewer.")
        if self.min_separation is not None and (self.size or 1) > turn:
            raise InvalidInput(
                f"Cohort asks for {self.size or 'all'} of a group, and {clients} clients in {self.min_separation} groups are "
                f"{turn} in the smallest. Use min_separation <= {clients // (self.size or 1)}."
            )
        if self.minimum > largest:
            raise InvalidInput(f"Cohort expects at least {self.minimum} answers, but at most {largest} clients are asked.")

    def turn(self, clients: int, round: int, dealing: np.random.Generator) -> tuple[int, ...] | None:
        """Sorted indices of the group whose turn it is in a round, from 1; None where the cohort keeps no distance.

        `dealing` must be the same, and untouched, in every round of a run: then the groups are, and no client is in two.
        """
        if self.min_separation is None:
            return None
        dealt = dealing.permutation(clients)[(round - 1) % self.min_separation :: self.min_separation]
        return tuple(sorted(int(i) for i in dealt))

    def draw(self, clients: int, rng: np.random.Generator, turn: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Sorted indices of the clients of one sum; of those whose turn it is, see `turn`."""
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
    """What is computed, on whom, behind which guards. It says nothing of the machine that runs it.

    Attributes:
        algorithm: what is computed, and how each sum changes the state.
        rounds: how many rounds (a query takes one).
        cohort: who takes part in each sum.
        layers: what is done to a client's vector before it is summed, and undone after.
        summation: how terms are brought together, so who can see them.
        name: for people; part of the hash.
        budget: the differential privacy that the result must have; the noise is derived from it.
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
        object.__setattr__(self, "layers", tuple(self.layers))

    def to_plain(self) -> dict[str, Any]:
        """Canonical plain data: JSON values only."""
        return typing.cast("dict[str, Any]", to_plain(self, skip_own=True))

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical form, in hexadecimal."""
        return hashlib.sha256(canonical(self.to_plain())).hexdigest()
