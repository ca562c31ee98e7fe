"""What may go wrong, and how often."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.validate import fraction, is_number, not_negative


def check_span(owner: str, name: str, span: tuple[float, float], *, zero: bool = True) -> None:
    """Raises InvalidInput unless the value is a pair (minimum, maximum) of finite seconds in that order.

    Args:
        zero: whether the minimum may be zero.
    """
    sound = isinstance(span, tuple) and len(span) == 2 and all(map(is_number, span)) and 0 <= span[0] <= span[1]
    if not (sound and (zero or span[0] > 0)):
        first = "0 <= minimum" if zero else "0 < minimum"
        raise InvalidInput(f"{owner} expects {name} = (minimum, maximum), {first} <= maximum; found {span!r}.")


@dataclass(frozen=True)
class Faults:
    """Probabilities and ranges. All times are in virtual seconds. Everything is off unless given.

    Attributes:
        drop: probability that an envelope is lost on its way.
        duplicate: probability that an envelope arrives once more, at another time; and again, at most three times.
        delay: least and most time that an envelope takes. Most take little of the range and a few nearly all of it, so that
            envelopes overtake each other, and old ones arrive late.
        lost_response: for each step that answers an envelope, probability that everything it sends back to that envelope's sender
            is lost.
        outage: each time a party wakes, probability that its network fails for `outage_for`; whatever it sends or is sent then is
            lost.
        outage_for: least and most time that an outage lasts.
        crash: for each step of a party, probability that it dies in it: before the step is written, while it is, or between any
            two sends.
        restart_after: least and most time until the party is rebuilt from its log.
        crash_for_good: for each crash, probability that the party never comes back; a vital one always does.
        torn: for each crash with writes not yet safe, probability that the last is cut at a random byte; else they are there or
            gone, as a whole.
        unsynced: for each step that keeps records and sends nothing, probability that they are not safe from a crash yet. They
            are before the party's next send, so that nobody can have seen what is lost.
        until: when all faults but the delays end. What is not over then ends by itself, or never.

    Raises InvalidInput for a value outside its range.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    delay: tuple[float, float] = (0.01, 0.05)
    lost_response: float = 0.0
    outage: float = 0.0
    outage_for: tuple[float, float] = (1.0, 20.0)
    crash: float = 0.0
    restart_after: tuple[float, float] = (0.1, 5.0)
    crash_for_good: float = 0.0
    torn: float = 0.5
    unsynced: float = 0.0
    until: float = 60.0

    def __post_init__(self) -> None:
        fraction("Faults", "drop", self.drop)
        fraction("Faults", "duplicate", self.duplicate)
        fraction("Faults", "lost_response", self.lost_response)
        fraction("Faults", "outage", self.outage)
        fraction("Faults", "crash", self.crash)
        fraction("Faults", "crash_for_good", self.crash_for_good)
        fraction("Faults", "torn", self.torn)
        fraction("Faults", "unsynced", self.unsynced)
        check_span("Faults", "delay", self.delay)
        check_span("Faults", "outage_for", self.outage_for)
        check_span("Faults", "restart_after", self.restart_after)
        not_negative("Faults", "until", self.until)

    @classmethod
    def none(cls) -> Self:
        """Nothing goes wrong; envelopes take a moment."""
        return cls()

    @classmethod
    def harsh(cls) -> Self:
        """Everything goes wrong, often."""
        return cls(
            drop=0.2,
            duplicate=0.2,
            delay=(0.001, 10.0),
            lost_response=0.2,
            outage=0.05,
            crash=0.05,
            crash_for_good=0.02,
            unsynced=0.5,
        )

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Random settings: each fault is off half the time, else anything from rare to harsh.

        Some failures need one fault often and another never. So many different settings find more than one that has everything
        (Groce et al., Swarm Testing, ISSTA 2012).
        """

        def chance(most: float) -> float:
            return 0.0 if rng.random() < 0.5 else float(most * 10 ** (-2 * rng.random()))

        slow = float(rng.choice([0.05, 0.5, 3.0, 15.0]))
        return cls(
            drop=chance(0.4),
            duplicate=chance(0.4),
            delay=(0.001, slow),
            lost_response=chance(0.4),
            outage=chance(0.1),
            outage_for=(0.5, float(rng.choice([5.0, 30.0]))),
            crash=chance(0.2),
            restart_after=(0.05, float(rng.choice([0.5, 5.0, 30.0]))),
            crash_for_good=chance(0.2),
            torn=float(rng.random()),
            unsynced=chance(1.0),
            until=float(rng.choice([10.0, 30.0, 120.0])),
        )

    def calm(self) -> Self:
        """These faults after their end: only delays remain."""
        return replace(self, drop=0.0, duplicate=0.0, lost_response=0.0, outage=0.0, crash=0.0, unsynced=0.0)

    def __str__(self) -> str:
        def shown(value: Any) -> str:
            return "-".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value:.3g}"

        return ", ".join(f"{f.name} {shown(getattr(self, f.name))}" for f in fields(self))
