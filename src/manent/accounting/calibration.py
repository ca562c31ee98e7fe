"""The noise that a budget needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from scipy import optimize

from manent.accounting.accountants import Accountant, check_arguments, epsilon, roughly
from manent.accounting.events import Event, NeighboringRelation, without_sampling
from manent.core import validate
from manent.core.errors import InvalidInput, Refused

_SMALLEST, _LARGEST = 1e-2, 1e8
_STAGES = ((math.inf, 1e-2, 0.125), (10.0, 2e-3, 0.005))
"""How coarse a PLD is in each, how near the stage comes, and how far apart the next one begins to look."""
_LEAST = 1e-9
"""Of the targets. Below, nothing that a study could do is within reach of them."""


def calibrate(
    target: float,
    delta: float,
    make_event: Callable[[float], Event],
    neighboring_relation: NeighboringRelation,
    accountant: Accountant = "auto",
    *,
    knows_sample: bool = False,
    adaptive: bool = False,
    interval: float | None = None,
    tolerance: float = 1e-4,
) -> float:
    """The smallest noise multiplier whose epsilon is at most `target`, to a relative tolerance, and never above the target.

    | case | answer |
    |---|---|
    | a target that 0.01 already keeps | 0.01, the smallest multiplier that is tried |
    | a part of the event costs more than the target by itself | Refused |
    | more noise than 10^8 would be needed | Refused |

    Args:
        target: epsilon; at least 1e-9.
        make_event: from a noise multiplier to what would run; epsilon must fall as the multiplier grows.
        tolerance: how far above the smallest multiplier the answer may be, relative to it; in [1e-9, 0.1].

    The other arguments are those of `epsilon`.

    Raises:
        InvalidInput: for a target or tolerance out of range, and what `epsilon` raises.
        Refused: where no multiplier is enough, because a part of the event does not depend on it.
    """
    validate.positive("calibrate", "target epsilon", target)
    if target < _LEAST:
        raise InvalidInput(f"calibrate expects a target epsilon >= {_LEAST:g}; found {target!r}. Give a larger one.")
    check_arguments(delta, neighboring_relation, interval)
    if not (validate.is_number(tolerance) and 1e-9 <= tolerance <= 0.1):
        raise InvalidInput(f"calibrate expects 1e-9 <= tolerance <= 0.1; found {tolerance!r}. Give a number in that range.")

    def excess(log_z: float) -> float:
        event = make_event(math.exp(log_z))
        options: dict[str, Any] = {"knows_sample": knows_sample, "adaptive": adaptive, "interval": interval}
        return beyond(epsilon(event, delta, neighboring_relation, accountant, **options).epsilon)

    def rough_excess(log_z: float, coarse: float) -> float:
        event = make_event(math.exp(log_z))
        asked = (float(delta), neighboring_relation, adaptive)
        return beyond(roughly(without_sampling(event) if knows_sample else event, asked, accountant, coarse))

    def beyond(found: float) -> float:
        # Both ends are cut off, so that an epsilon of 0 or infinity does not stop the search.
        return math.log(min(max(found, 1e-12), 1e12) / target)

    # A search begins where a quicker one ended, first without a PLD and then with a coarse one: they move its start alone.
    start, step = 0.0, 0.125
    for coarse, near, after in _STAGES if accountant in ("auto", "pld") else ():
        with suppress(Refused):
            start, step = _smallest(partial(rough_excess, coarse=coarse), near, start, step, target), after
    return math.exp(_smallest(excess, tolerance, start, step, target))


def _smallest(excess: Callable[[float], float], tolerance: float, start: float, step: float, target: float) -> float:
    """The smallest x, to the tolerance, at which a falling function is at most zero. The answer itself is checked to be so.

    From `start` it steps by `step`, doubled each time, until the answer lies between two points, and then narrows them down.
    """
    low, high, first = start, start, step
    while excess(high) > 0:
        if high >= math.log(_LARGEST):
            raise Refused(
                f"No noise is enough for epsilon {target:g}: a part of what runs costs more by itself. "
                "Leave it out, or raise epsilon."
            )
        low, high, step = high, min(high + step, math.log(_LARGEST)), 2 * step
    step = first
    while low == high or excess(low) <= 0:
        if low <= math.log(_SMALLEST):
            return low
        high = low
        low, step = max(low - step, math.log(_SMALLEST)), 2 * step
    root = float(optimize.brentq(excess, low, high, xtol=tolerance / 4, rtol=1e-12))
    for candidate in (root, root + tolerance / 4, root + tolerance / 2):
        if excess(candidate) <= 0:
            return min(candidate, high)
    return high
