"""Any release that is known to be zero-concentrated differentially private.

| relation | guarantee of one release |
|---|---|
| add_or_remove, zero_out | rho-zCDP (Bun and Steinke 2016) |
| replace_one | 4 rho-zCDP: a replacement is a removal and an addition, and zCDP grows with the square of the group |
| sampled | Poisson, except under replace_one, by the general bound; not by a fixed size |
| PLD | none: it is accounted by zCDP, or by RDP beside other events |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manent.accounting.protocol import CHANGE, Event, NeighboringRelation, set_positive


@dataclass(frozen=True)
class ZeroConcentrated(Event):
    """A release that is rho-zCDP when a unit is added, removed or zeroed.

    Attributes:
        rho: > 0.
    """

    rho: float

    def __post_init__(self) -> None:
        set_positive(self, "rho")

    def zcdp(self, relation: NeighboringRelation) -> float:
        """rho, or four times it for a replacement."""
        return CHANGE[relation] ** 2 * self.rho

    def to_dp_event(self) -> Any:
        """See `Event`."""
        import dp_accounting as dp

        return dp.ZCDpEvent(self.rho)
