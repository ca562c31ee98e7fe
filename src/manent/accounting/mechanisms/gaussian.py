"""Gaussian noise, as mathematics and as it is drawn.

| relation | guarantee of one release with noise multiplier z |
|---|---|
| add_or_remove, zero_out | that of the Gaussian mechanism at z: exact (epsilon, delta) by Balle and Wang 2018; 1/(2 z^2)-zCDP |
| replace_one | the same at z / r: the sum moves by r times the norm, where r is `replaced`, 2 unless it is said |
| z below 1e-50 or above 1e50 | refused, as a number that nothing computes with; the PLD gets a coarser interval below about 0.1 |

Several such releases of the same data, however they are composed, cost exactly what one Gaussian release does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from manent.accounting import losses
from manent.accounting.protocol import Event, NeighboringRelation, set_fraction, set_positive, set_ratio


@dataclass(frozen=True)
class Gaussian(Event):
    """Gaussian noise on a vector of bounded L2 norm, as mathematics. What manent releases is a `RoundedGaussian`.

    Attributes:
        noise_multiplier: standard deviation over that bound; > 0.
        replaced: how far a replacement moves it, as a multiple of that norm; in (0, 2]. For one-hot vectors, sqrt(2).
    """

    noise_multiplier: float
    replaced: float = field(default=2.0, kw_only=True)

    def __post_init__(self) -> None:
        set_positive(self, "noise_multiplier")
        set_ratio(self)

    @property
    def gaussian_multiplier(self) -> float:
        """The noise multiplier."""
        return self.noise_multiplier

    def zcdp(self, relation: NeighboringRelation) -> float:
        """1/(2 z^2), at z / `replaced` for a replacement."""
        return zcdp_of(self, self.noise_multiplier, relation)

    def has_pld(self, relation: NeighboringRelation) -> bool:
        """Always."""
        return True

    def pld(self, relation: NeighboringRelation, interval: float, count: int) -> Any:
        """That of one release with the multiplier over sqrt(count)."""
        return losses.of_gaussian(self.noise_multiplier / self.change(relation) / math.sqrt(count), "zero_out", interval)

    def pld_width(self, relation: NeighboringRelation) -> float:
        """See `Event`."""
        return losses.width(self.noise_multiplier / self.change(relation))

    def to_dp_event(self) -> Any:
        """See `Event`."""
        import dp_accounting as dp

        return dp.GaussianDpEvent(self.noise_multiplier)


@dataclass(frozen=True)
class RoundedGaussian(Gaussian):
    """Whole numbers plus Gaussian noise that is rounded to whole numbers.

    It is post-processing of the Gaussian mechanism, and accounted as that.

    Attributes:
        noise_multiplier: over the L2 norm of the whole numbers.
        sampler_error: bound on the total variation between the noise that was drawn and its law, in one release; in [0, 1).
            It joins delta.
        replaced: as for `Gaussian`.
    """

    sampler_error: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fraction(self, "sampler_error", one=False)

    def error(self) -> float:
        """The sampler's."""
        return self.sampler_error

    def loosened(self, error: float) -> RoundedGaussian | None:
        """See `Event`."""
        total = self.sampler_error + error
        return RoundedGaussian(self.noise_multiplier, total) if total < 1 else None


def zcdp_of(event: Event, noise_multiplier: float, relation: NeighboringRelation) -> float:
    """rho of an event whose noise is 1/(2 z^2)-zCDP against one unit's own norm."""
    return event.change(relation) ** 2 / (2 * noise_multiplier**2)
