"""Discrete Gaussian noise, added in one place.

| relation | guarantee of one release with noise multiplier z |
|---|---|
| add_or_remove, zero_out | 1/(2 z^2)-zCDP (Canonne, Kamath and Steinke 2020, Theorem 4) |
| replace_one | r^2/(2 z^2)-zCDP: the sum moves by r times the norm, where r is `replaced`, 2 unless it is said |
| sampled | Poisson, except under replace_one, by the general bound; not by a fixed size |
| PLD | none here: it is accounted by zCDP, or by RDP beside other events |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from manent.accounting.mechanisms.gaussian import zcdp_of
from manent.accounting.protocol import Event, NeighboringRelation, set_positive, set_ratio


@dataclass(frozen=True)
class DiscreteGaussian(Event):
    """Whole numbers plus discrete Gaussian noise.

    Attributes:
        noise_multiplier: sigma of the noise over the L2 norm of one unit's whole numbers; > 0.
        replaced: how far a replacement moves it, as a multiple of that norm; in (0, 2]. For one-hot vectors, sqrt(2).
    """

    noise_multiplier: float
    replaced: float = field(default=2.0, kw_only=True)

    def __post_init__(self) -> None:
        set_positive(self, "noise_multiplier")
        set_ratio(self)

    def zcdp(self, relation: NeighboringRelation) -> float:
        """1/(2 z^2), at z / `replaced` for a replacement."""
        return zcdp_of(self, self.noise_multiplier, relation)

    def to_dp_event(self) -> Any:
        """See `Event`."""
        import dp_accounting as dp

        return dp.ZCDpEvent(1 / (2 * self.noise_multiplier**2))
