"""How often each event ran, as a bag, and the smallest bound on its epsilon that holds.

| what is bounded | by which accountants |
|---|---|
| one study, as it was reserved | all: its events were fixed in advance, and to stop early only hides what would have followed |
| what ran of studies that ended early, and of several studies | those that hold for adaptive choices (Feldman and Zrnic 2021) |

The smaller bound counts. A study that fits its budget only by an accountant of the first kind gives nothing back when it ends
early: whether it ended, and what is left then, may depend on its results, and no bound of the second kind covers every end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from manent.accounting.accountants import Guarantee, epsilon
from manent.accounting.budget import Budget
from manent.accounting.events import Event, composed, parse, text
from manent.core.errors import InvalidInput, Refused

Bag = Mapping[Event, int]


@lru_cache(maxsize=4096)
def _parsed(event: str) -> Event:
    return parse(event)


def plain(bag: Bag) -> dict[str, int]:
    """The bag as JSON values: how often, by the event's text; `of_plain` gives it back."""
    return {text(event): count for event, count in bag.items()}


def of_plain(values: Mapping[str, int]) -> dict[Event, int]:
    """The bag of its `plain` form."""
    return {_parsed(event): count for event, count in values.items()}


def plus(a: Bag, b: Bag, sign: int = 1) -> dict[Event, int]:
    """Two bags together; or with sign -1 the first without the second. Raises InvalidInput for less than nothing."""
    total = dict(a)
    for event, count in b.items():
        total[event] = total.get(event, 0) + sign * count
        if total[event] < 0:
            raise InvalidInput(f"More of {text(event)} would be returned than was reserved.")
        if total[event] == 0:
            del total[event]
    return total


def bounded(event: Event, budget: Budget) -> float:
    """epsilon of what was chosen after earlier results; infinite where no accountant that allows for that bounds it."""
    try:
        return epsilon(event, budget.delta, budget.neighboring_relation, adaptive=True).epsilon
    except Refused:
        return math.inf


def least(ran: Bag, whole: Bag, budget: Budget, runs: int) -> Guarantee:
    """The smallest of the bounds that hold.

    Args:
        ran: what ran, or may still run.
        whole: the same with what studies that ended early gave back.
        runs: how many studies that is.

    Raises Refused where there is none.
    """
    delta, relation = budget.delta, budget.neighboring_relation
    chosen = composed(ran)
    if runs > 1:
        return epsilon(chosen, delta, relation, adaptive=True)
    fixed = epsilon(composed(whole), delta, relation)
    if fixed.epsilon <= bounded(chosen, budget):
        return fixed
    return epsilon(chosen, delta, relation, adaptive=True)
