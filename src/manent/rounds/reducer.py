"""The round as a pure reducer: (progress, event) -> (progress', effects).

It holds no arrays and does nothing itself. An engine supplies the events and carries out the effects. A server stores each step
with its effects in one transaction; a simulation replaces its checkpoint, and cuts its logs back to it when it resumes. So a
process can die between any two steps, and resume from what was stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Phase = Literal["ready", "collecting", "releasing", "finished"]


@dataclass(frozen=True)
class Rules:
    """What the reducer needs of a study.

    Attributes:
        rounds: how many rounds it has.
        minimum: the fewest answers with which a sum is released.
    """

    rounds: int
    minimum: int = 1


@dataclass(frozen=True)
class Progress:
    """Where a study is.

    Attributes:
        round: counted from 1.
        index: which sum of the round, from 0.
        phase: "ready" before a sum, "collecting" its answers, "releasing" it once enough are in, or "finished".
        cohort: how many positions the current sum has.
        answered, lost: positions that have answered, and positions that will not.
    """

    round: int = 1
    index: int = 0
    phase: Phase = "ready"
    cohort: int = 0
    answered: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()

    @property
    def finished(self) -> bool:
        """Whether the study is done."""
        return self.phase == "finished"


@dataclass(frozen=True)
class Opened:
    """A sum begins with a cohort of this many positions."""

    cohort: int


@dataclass(frozen=True)
class Answered:
    """The vectors of these positions are in."""

    positions: tuple[int, ...]


@dataclass(frozen=True)
class Lost:
    """These positions will not answer."""

    positions: tuple[int, ...]


@dataclass(frozen=True)
class Deadline:
    """The time is over: whoever has not answered is lost."""


@dataclass(frozen=True)
class Applied:
    """The released total has changed the state. `more` says whether the round needs another sum."""

    more: bool


@dataclass(frozen=True)
class Failed:
    """No total could be formed, although enough positions answered."""

    reason: str


Event = Opened | Answered | Lost | Deadline | Applied | Failed


@dataclass(frozen=True)
class Publish:
    """Send the assignment to the cohort."""


@dataclass(frozen=True)
class Release:
    """Form the total over exactly these positions, apply it, and commit their memory together with it."""

    positions: tuple[int, ...]


@dataclass(frozen=True)
class Abandon:
    """Discard every answer. The state stays as it was, and no memory is committed."""

    reason: str


@dataclass(frozen=True)
class Ignore:
    """An event that changes nothing, because it comes too late or for the second time."""

    reason: str


@dataclass(frozen=True)
class Finish:
    """The study is done."""


Effect = Publish | Release | Abandon | Ignore | Finish


def step(progress: Progress, event: Event, rules: Rules) -> tuple[Progress, tuple[Effect, ...]]:
    """The next progress, and what to do. An event that does not fit the phase is ignored, with a reason; nothing is raised."""
    match progress.phase, event:
        case "ready", Opened(cohort):
            opened = replace(progress, phase="collecting", cohort=cohort, answered=frozenset(), lost=frozenset())
            settled, effects = _settle(opened, rules)
            return settled, (Publish(), *effects) if cohort else effects
        case "collecting", Answered(positions):
            new = _new(progress, positions)
            return _settle(replace(progress, answered=progress.answered | new), rules, ignored=set(positions) - new)
        case "collecting", Lost(positions):
            new = _new(progress, positions)
            return _settle(replace(progress, lost=progress.lost | new), rules, ignored=set(positions) - new)
        case "collecting", Deadline():
            everyone = frozenset(range(progress.cohort))
            return _settle(replace(progress, lost=everyone - progress.answered), rules)
        case "releasing", Applied(more):
            return _advance(progress, rules, more)
        case "releasing", Failed(reason):
            after, effects = _advance(progress, rules, more=False)
            return after, (Abandon(reason), *effects)
    return progress, (Ignore(f"{type(event).__name__} does not fit a sum that is {progress.phase}."),)


def follow(progress: Progress, rules: Rules, *events: Event) -> tuple[Progress, list[Effect]]:
    """The progress after several events, one after another, and all their effects."""
    effects: list[Effect] = []
    for event in events:
        progress, found = step(progress, event, rules)
        effects += found
    return progress, effects


def _new(progress: Progress, positions: tuple[int, ...]) -> frozenset[int]:
    fresh = frozenset(p for p in positions if 0 <= p < progress.cohort)
    return fresh - progress.answered - progress.lost


def _settle(progress: Progress, rules: Rules, ignored: set[int] | None = None) -> tuple[Progress, tuple[Effect, ...]]:
    notes: tuple[Effect, ...] = ()
    if ignored:
        notes = (Ignore(f"Positions {sorted(ignored)} are outside the cohort, or settled already."),)
    if len(progress.answered) + len(progress.lost) < progress.cohort:
        return progress, notes
    if len(progress.answered) >= rules.minimum:
        return replace(progress, phase="releasing"), (*notes, Release(tuple(sorted(progress.answered))))
    reason = f"{len(progress.answered)} of {progress.cohort} clients answered; at least {rules.minimum} are needed."
    after, effects = _advance(progress, rules, more=False)
    return after, (*notes, Abandon(reason), *effects)


def _advance(progress: Progress, rules: Rules, more: bool) -> tuple[Progress, tuple[Effect, ...]]:
    if more:
        return Progress(round=progress.round, index=progress.index + 1), ()
    if progress.round >= rules.rounds:
        return Progress(round=progress.round, phase="finished"), (Finish(),)
    return Progress(round=progress.round + 1), ()
