"""Gaussian noise, as mathematics and as it is drawn.

| relation | guarantee of one release with noise multiplier z |
|---|---|
| add_or_remove, zero_out | that of the Gaussian mechanism at z: exact (epsilon, delta) by Balle and Wang 2018; 1/(2 z^2)-zCDP |
| replace_one | the same at z / 2: the sum moves by twice the norm |
| z very large or very small | a bound at every z whose square a float64 holds; the PLD gets a coarser interval below about 0.1 |

Several such releases of the same data, however they are composed, cost exactly what one Gaussian release does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from manent.accounting import losses
from manent.accounting.protocol import CHANGE, Event, NeighboringRelation, set_fraction, set_positive


@dataclass(frozen=True)
class Gaussian(Event):
    """Gaussian noise on a vector of bounded L2 norm, as mathematics. What manent releases is a `RoundedGaussian`.

    Attributes:
        noise_multiplier: standard deviation over that bound; > 0.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        set_positive(self, "noise_multiplier")

    @property
    def gaussian_multiplier(self) -> float:
        """The noise multiplier."""
        return self.noise_multiplier

    def zcdp(self, relation: NeighboringRelation) -> float:
        """1/(2 z^2), at z / 2 for a replacement."""
        return zcdp_of(self.noise_multiplier, relation)

    def has_pld(self, relation: NeighboringRelation) -> bool:
        """Always."""
        return True

    def pld(self, relation: NeighboringRelation, interval: float, count: int) -> Any:
        """That of one release with the multiplier over sqrt(count)."""
        return losses.of_gaussian(self.noise_multiplier / math.sqrt(count), relation, interval)

    def pld_width(self, relation: NeighboringRelation) -> float:
        """See `Event`."""
        return losses.width(self.noise_multiplier / CHANGE[relation])

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
    """

    sampler_error: float = 0.0

    def __post_init__(self) -> None:
        set_positive(self, "noise_multiplier")
        set_fraction(self, "sampler_error", one=False)

    def error(self) -> float:
        """The sampler's."""
        return self.sampler_error

    def loosened(self, error: float) -> RoundedGaussian | None:
        """See `Event`."""
        total = self.sampler_error + error
        return RoundedGaussian(self.noise_multiplier, total) if total < 1 else None


def zcdp_of(noise_multiplier: float, relation: NeighboringRelation) -> float:
    """rho of noise that is 1/(2 z^2)-zCDP against one unit's own norm."""
    return CHANGE[relation] ** 2 / (2 * noise_multiplier**2)
