"""What each observer learns of the private sums of a study, as events for the accountant.

The summation says what an observer sees of the vectors, and whether it learns the cohort. The noise says what then protects. A
secret sample amplifies only against those who do not learn the cohort. One who takes part knows at least of itself whether it was
drawn, and takes its own vector and its own noise off every total.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manent.accounting.events import Composed, Event, Sampling, released
from manent.core.errors import Refused
from manent.core.layers import Cost
from manent.core.observers import OBSERVERS, ObserverName
from manent.core.protocols import Summation, SummationTraits, traits
from manent.privacy.stack import Stack

Costs = Sequence[tuple[Cost, int]]
"""What one release of each kind of sum costs, and how often that sum is released."""


@dataclass(frozen=True)
class Secrecy:
    """How the cohort of each sum is secretly drawn; None where nothing about it may count as secret.

    Attributes:
        public: for one who takes no part.
        member: for one who takes part, and so knows of itself whether it was drawn.
        error: bound, for each sum, on the total variation between how the others are drawn and what `member` says.
    """

    public: Sampling | None = None
    member: Sampling | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Seen:
    """One observer's view, as the accounting sees it.

    Attributes:
        event: all that may be released, as this observer sees it; None where nothing protects against them.
        knows_sample: whether they know who took part in each sum, although that is drawn at random.
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


def looking(colluding: int) -> tuple[ObserverName, ...]:
    """Who looks, where so many clients are declared to collude."""
    return OBSERVERS if colluding else OBSERVERS[:3]


def colluding_of(summation: Summation, most: int, share: float = 0.0) -> int:
    """How many of the most clients that are asked are declared to collude: by the summation; by the noise where it hides nothing.

    Args:
        share: what the noise declares. A summation withstands no more than it declares itself, whatever the noise does.
    """
    hiding = traits(summation, SummationTraits).hiding
    return math.floor((share if hiding is None else hiding.corrupt) * most + 1e-9)


def held_off(seen: Mapping[ObserverName, Seen]) -> tuple[ObserverName, ...]:
    """Whom a budget holds against that names nobody: the clients, the public, and whoever else the noise protects from."""
    return tuple(name for name, one in seen.items() if name in ("clients", "public") or one.event is not None)


def views(costs: Costs, secrecy: Secrecy, summation: Summation, colluding: int, random: bool) -> dict[ObserverName, Seen]:
    """What each observer sees of all sums.

    Args:
        secrecy: see `Secrecy`.
        colluding: how many clients are declared to collude.
        random: whether cohorts are drawn at random at all.
    """
    return {name: _seen(name, costs, secrecy, summation, random) for name in looking(colluding)}


def _seen(name: ObserverName, costs: Costs, secrecy: Secrecy, summation: Summation, random: bool) -> Seen:
    sight, parts = summation.seen_by(name), []
    for cost, count in costs:
        event, why = cost.seen_by(name, sight.view)
        if event is None:
            return Seen(None, sight.cohort, why)
        parts.append(_released(name, event, count, Secrecy() if sight.cohort else secrecy))
    everything = parts[0] if len(parts) == 1 else Composed(tuple(parts))
    amplified = everything != everything.without_sampling()
    return Seen(everything, random and not amplified, f"{why} {_KNOWLEDGE[amplified]}" if random else why)


def _released(name: ObserverName, event: Event, count: int, secrecy: Secrecy) -> Event:
    """Releases of an event, on a sample of which this observer was told nothing. Colluders know too much of it by themselves."""
    if name == "public" and not (secrecy.error and event.loosened(secrecy.error)):
        return released(event, count, secrecy.public)
    # What bounds a client's knowledge bounds the public's, too.
    return (
        released(event, count, secrecy.member, secrecy.error) if name in ("public", "clients") else released(event, count, None)
    )


_KNOWLEDGE = {
    True: "Who was sampled is not known to them.",
    False: "Sampling counts for nothing: who was sampled, or how many were, may be known to them.",
}
