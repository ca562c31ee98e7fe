"""A release on a secret random part of the units. How it is drawn, and what that gains, is said by its `Sampling`.

| observer | guarantee |
|---|---|
| does not know who was sampled | amplified, as the sampling's file says |
| knows who was sampled | that of the release itself: see `without_sampling` |
| a sample of a sample | none: refused |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from manent.accounting import curves, losses
from manent.accounting.protocol import (
    CHANGE,
    Curve,
    Event,
    NeighboringRelation,
    Sampling,
    check_part,
    composed_epsilon,
    counted,
    joint_multiplier,
)
from manent.core.errors import InvalidInput, Refused


@dataclass(frozen=True)
class Sampled(Event):
    """A release on a secret random part of the units. It amplifies only against those who do not know who was drawn.

    Attributes:
        event: what is released; several releases are all made from the one sample.
        by: how units are drawn.
    """

    event: Event
    by: Sampling

    def __post_init__(self) -> None:
        check_part(self.event)
        if not isinstance(self.by, Sampling):
            raise InvalidInput(f"Sampled expects by=Poisson(...), TruncatedPoisson(...) or FixedSize(...); found {self.by!r}.")

    def parts(self) -> tuple[tuple[Event, int], ...] | None:
        """The release itself where everyone is drawn; else it is accounted as one."""
        return ((self.event, 1),) if self.by.everyone else None

    def nesting(self) -> int:
        """See `Event`."""
        return 1 + self.event.nesting()

    def without_sampling(self) -> Event:
        """See `Event`."""
        return self.event.without_sampling()

    def renyi(self, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
        """That of the sampling. Raises Refused for a sample of a sample, and where the sampling does."""
        if any(isinstance(leaf, Sampled) for leaf in counted(self.event)):
            raise Refused("A sample of a sample has no accounting here; sample once.")
        sampled = self.by.renyi(self.event, relation, orders)
        # Who knows the sample knows more, and the same samples are drawn of both neighbours: by joint convexity, it is a bound.
        moved: NeighboringRelation = "replace_one" if self.by.brings_another and relation == "add_or_remove" else relation
        smallest: Curve = np.minimum(sampled, curves.renyi(counted(self.event), moved, orders))
        return smallest

    def renyi_event(self) -> Event:
        """The same on a sample that is not cut."""
        uncut = self.by.uncut()
        return self if uncut is self.by else Sampled(self.event, uncut)

    def renyi_error(self, relation: NeighboringRelation) -> float:
        """Probability that a sample is cut."""
        return self.by.overflow(relation)

    def brings_another(self) -> bool:
        """See `Event`."""
        return self.by.brings_another

    def pure_epsilon(self, relation: NeighboringRelation) -> float | None:
        """That of the sampling, of all that is released together; None unless all of it is purely private."""
        whole = composed_epsilon(counted(self.event), relation)
        return None if whole is None else self.by.pure_epsilon(whole, relation)

    def has_pld(self, relation: NeighboringRelation) -> bool:
        """Whether the sampling has one of this event."""
        return self.by.has_pld(self.event, relation)

    def pld(self, relation: NeighboringRelation, interval: float, count: int) -> Any:
        """That of the sampling, composed so many times."""
        return losses.many(self.by.pld(self.event, relation, interval), count)

    def pld_width(self, relation: NeighboringRelation) -> float:
        """That of Gaussian noise; for other releases, that of all together without sampling."""
        z = joint_multiplier(self.event)
        if z is None:
            return math.fsum(count * leaf.pld_width(relation) for leaf, count in counted(self.event).items())
        return losses.width(z / 2 if self.by.brings_another else z / CHANGE[relation])

    def error(self) -> float:
        """Those of all that is released."""
        return math.fsum(count * leaf.error() for leaf, count in counted(self.event).items())

    def claims(self, relation: NeighboringRelation) -> tuple[str, ...]:
        """Those of the sampling, and of all that is released."""
        return self.by.claims(relation) + tuple(claim for leaf in counted(self.event) for claim in leaf.claims(relation))

    def label(self) -> str:
        """See `Event`."""
        inside = ", ".join(type(leaf).__name__ for leaf in counted(self.event)) or "nothing"
        return f"{type(self.by).__name__} sampling of {inside}"

    def to_dp_event(self) -> Any:
        """See `Event`."""
        return self.by.to_dp_event(self.event)
