"""What each observer sees of the private sums of a study, as events for the accountant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manent.accounting.events import Composed, Event, Sampling, released
from manent.core.errors import Refused
from manent.core.layers import Cost
from manent.core.protocols import Summation
from manent.privacy.stack import Stack

Costs = Sequence[tuple[Cost, int]]
"""What one release of each kind of sum costs, and how often that sum is released."""


@dataclass(frozen=True)
class Seen:
    """One observer's view, as the accounting sees it.

    Attributes:
        event: all that may be released, as this observer sees it; None where nothing protects against them.
        knows_sample: whether they know who took part in each sum.
        why: in words, what the guarantee rests on, or why there is none.
    """

    event: Event | None
    knows_sample: bool
    why: str


def cost_of(stack: Stack) -> Cost:
    """What a stack's noise costs. Raises Refused where there is no noise that is accounted."""
    if stack.noise is None or stack.noise.cost is None:
        raise Refused(
            f"Every sum of a private study needs noise that is accounted; found layers {', '.join(stack.names) or 'none'}. "
            f"Use CentralNoise, LocalNoise, DistributedNoise or CorrelatedNoise."
        )
    return stack.noise.cost


def all_releases(costs: Costs, by: Sampling | None) -> Event:
    """Everything that is released, as one event for those who see the totals.

    Args:
        by: how the cohort of each sum is secretly drawn, or None.
    """
    return _together([released(cost.event, count, by) for cost, count in costs])


def all_vectors(costs: Costs) -> Event:
    """All vectors that one client sends, as one event for those who see each. Raises Refused where nothing protects one."""
    parts = []
    for cost, count in costs:
        if cost.seen is None:
            raise Refused("Nothing protects a single vector.")
        parts.append(released(cost.seen, count, None))
    return _together(parts)


def views(costs: Costs, by: Sampling | None, summation: Summation) -> dict[str, Seen]:
    """What each observer sees of all sums: the "server", other "clients", and the "public"."""
    everything = all_releases(costs, by)
    secret = "" if by is None else " Who was sampled is not known to them."
    told = Seen(everything, False, f"They see what is made of the noised totals.{secret}")
    return {"server": _server(costs, everything, summation), "clients": told, "public": told}


def _server(costs: Costs, everything: Event, summation: Summation) -> Seen:
    """What the server sees, by who draws the noise. It knows who was asked."""
    where = costs[0][0].where
    if where == "server":
        return Seen(None, True, "The server adds the noise, and sees what it adds it to: it is trusted.")
    if where == "each client":
        return Seen(all_vectors(costs), True, "Each vector carries its own noise; the server knows who was asked.")
    if summation.view == "the sum alone":
        return Seen(everything, True, "It sees totals alone, each with the shares of all who are certain to answer.")
    why = "It sees each vector, which carries one share of the noise only: shares protect in sums that hide their terms."
    return Seen(None, True, why)


def _together(parts: Sequence[Event]) -> Event:
    return parts[0] if len(parts) == 1 else Composed(tuple(parts))
