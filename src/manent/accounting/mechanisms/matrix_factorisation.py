"""DP-FTRL: noise that is correlated between rounds, for cohorts that are not sampled secretly (Denisov et al. 2022).

| relation | guarantee of all rounds together, with noise multiplier z |
|---|---|
| add_or_remove, zero_out | that of one Gaussian release at z, exact; 1/(2 z^2)-zCDP. Rounds may depend on earlier results |
| replace_one | the same at z / r: the encoded rounds move by r times the norm; r is `replaced`, 2 unless it is said |
| sampled | Poisson, except under replace_one, by the general bound, as one release; not by a fixed size |
| a unit that takes part more often, or sooner again, than declared | not covered: the participation schema must be kept |
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from manent.accounting import losses
from manent.accounting.mechanisms.gaussian import zcdp_of
from manent.accounting.protocol import Event, NeighboringRelation, set_count, set_fraction, set_positive, set_ratio
from manent.core.errors import InvalidInput


@dataclass(frozen=True)
class MatrixFactorisation(Event):
    """All rounds with correlated noise, as one event.

    Attributes:
        noise_multiplier: over the L2 norm that one unit's participations can reach together, after encoding.
        rounds: how many sums.
        participations: the most that one unit takes part in.
        min_separation: the fewest rounds from one participation to the next.
        sampler_error: bound on the total variation between the noise that was drawn and its law, over all rounds; in [0, 1).
            It joins delta.
        replaced: how far a replacement moves it, as a multiple of that norm; in (0, 2]. For one-hot vectors, sqrt(2).
    """

    spans_rounds: ClassVar[bool] = True

    noise_multiplier: float
    rounds: int
    participations: int
    min_separation: int
    sampler_error: float = 0.0
    replaced: float = field(default=2.0, kw_only=True)

    def __post_init__(self) -> None:
        set_positive(self, "noise_multiplier")
        set_count(self, "rounds", "participations", "min_separation")
        set_fraction(self, "sampler_error", one=False)
        set_ratio(self)
        if (self.participations - 1) * self.min_separation >= self.rounds:
            raise InvalidInput(
                f"{self.participations} participations at least {self.min_separation} rounds apart do not fit into "
                f"{self.rounds} rounds. Declare fewer participations, or more rounds."
            )

    @property
    def unsampled_multiplier(self) -> float:
        """The noise multiplier: one Gaussian release hides the same, also of rounds that are chosen after earlier results.

        Denisov et al. 2022; Smith and Thakurta 2022, "Fully Adaptive Composition for Gaussian Differential Privacy".
        """
        return self.noise_multiplier

    @property
    def releases(self) -> int:
        """All rounds."""
        return self.rounds

    def zcdp(self, relation: NeighboringRelation) -> float:
        """1/(2 z^2), at z / `replaced` for a replacement."""
        return zcdp_of(self, self.noise_multiplier, relation)

    def has_pld(self, relation: NeighboringRelation) -> bool:
        """Always."""
        return True

    def pld(self, relation: NeighboringRelation, interval: float, count: int) -> Any:
        """That of one Gaussian release with the multiplier over sqrt(count)."""
        return losses.of_gaussian(self.noise_multiplier / self.change(relation) / math.sqrt(count), "zero_out", interval)

    def pld_width(self, relation: NeighboringRelation) -> float:
        """See `Event`."""
        return losses.width(self.noise_multiplier / self.change(relation))

    def error(self) -> float:
        """The sampler's, over all rounds."""
        return self.sampler_error

    def claims(self, relation: NeighboringRelation) -> tuple[str, ...]:
        """See `Event`."""
        return (f"Each unit takes part at most {self.participations} times, at least {self.min_separation} rounds apart.",)

    def to_dp_event(self) -> Any:
        """See `Event`."""
        import dp_accounting as dp

        return dp.GaussianDpEvent(self.noise_multiplier)
