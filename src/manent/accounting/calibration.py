"""The noise that a budget needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from scipy import optimize

from manent.accounting.accountants import INTERVAL, Accountant, epsilon, roughly
from manent.accounting.events import Event, NeighboringRelation, without_sampling
from manent.core.errors import InvalidInput, Refused

_LEAST, _MOST = 1e-2, 1e8


def calibrate(
    target: float,
    delta: float,
    make_event: Callable[[float], Event],
    neighboring_relation: NeighboringRelation,
    accountant: Accountant = "auto",
    *,
    knows_sample: bool = False,
    adaptive: bool = False,
    interval: float = INTERVAL,
    tolerance: float = 1e-4,
) -> float:
    """The smallest noise multiplier whose epsilon is at most `target`, to a relative tolerance, and never above the target.

    Args:
        target: epsilon.
        make_event: from a noise multiplier to what would run; epsilon must fall as the multiplier grows.
        tolerance: how far above the smallest multiplier the answer may be, relative to it.

    The other arguments are those of `epsilon`. Multipliers from 0.01 to 10^8 are tried.

    Raises:
        InvalidInput: for a target or tolerance out of range.
        Refused: where no multiplier is enough, because a part of the event does not depend on it.
    """
    if not (isinstance(target, int | float) and math.isfinite(target) and target > 0):
        raise InvalidInput(f"epsilon is > 0 and finite; found {target!r}.")
    if not 1e-9 <= tolerance <= 0.1:
        raise InvalidInput(f"tolerance is in [1e-9, 0.1]; found {tolerance!r}.")

    def excess(log_z: float, interval: float) -> float:
        event = make_event(math.exp(log_z))
        options: dict[str, Any] = {"knows_sample": knows_sample, "adaptive": adaptive, "interval": interval}
        return beyond(epsilon(event, delta, neighboring_relation, accountant, **options).epsilon)

    def rough_excess(log_z: float) -> float:
        event = make_event(math.exp(log_z))
        return beyond(roughly(without_sampling(event) if knows_sample else event, delta, neighboring_relation))

    def beyond(found: float) -> float:
        # Cut off, so that an infinite epsilon does not stop the search.
        return math.log(min(max(found, 1e-12), 1e12) / target)

    # What takes longer begins where the quicker ended: a few Rényi divergences, a coarse PLD, and the one that counts.
    start, step = 0.0, 0.125
    if accountant in ("auto", "pld", "rdp"):
        start = _smallest(rough_excess, 1e-2, start, step, target)
    if accountant in ("auto", "pld"):
        start, step = _smallest(lambda x: excess(x, 20 * interval), 2e-3, start, step, target), 0.005
    return math.exp(_smallest(lambda x: excess(x, interval), tolerance, start, step, target))


def _smallest(excess: Callable[[float], float], tolerance: float, start: float, step: float, target: float) -> float:
    """The smallest x, to the tolerance, at which a falling function is not above zero; x itself is checked to be so.

    The search goes from `start` by `step`, doubled each time, until it has it between two points.
    """
    low, high, first = start, start, step
    while excess(high) > 0:
        if high >= math.log(_MOST):
            raise Refused(
                f"No noise is enough for epsilon {target:g}: a part of what runs costs more by itself. "
                "Leave it out, or raise epsilon."
            )
        low, high, step = high, min(high + step, math.log(_MOST)), 2 * step
    step = first
    while low == high or excess(low) <= 0:
        if low <= math.log(_LEAST):
            return low
        high = low
        low, step = max(low - step, math.log(_LEAST)), 2 * step
    root = float(optimize.brentq(excess, low, high, xtol=tolerance / 4, rtol=1e-12))
    for candidate in (root, root + tolerance / 4, root + tolerance / 2):
        if excess(candidate) <= 0:
            return min(candidate, high)
    return high
