"""The round as a reducer, over random sequences of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.rounds.reducer import (
    Abandon,
    Answered,
    Applied,
    Deadline,
    Finish,
    Ignore,
    Lost,
    Opened,
    Progress,
    Publish,
    Release,
    Rules,
    step,
)

positions = st.lists(st.integers(-1, 7), max_size=4).map(tuple)
events = st.one_of(
    st.builds(Opened, st.integers(0, 6)),
    st.builds(Answered, positions),
    st.builds(Answered, positions),
    st.builds(Lost, positions),
    st.just(Deadline()),
    st.builds(Applied, st.booleans()),
)
rules = st.builds(Rules, st.integers(1, 4), st.integers(1, 4))


def follow(sequence, rule):
    """Every (progress, event, next progress, effects) from the start."""
    progress = Progress()
    for event in sequence:
        after, effects = step(progress, event, rule)
        yield progress, event, after, effects
        progress = after


@given(st.lists(events, max_size=60), rules)
def test_it_never_raises_and_stays_within_its_bounds(sequence, rule):
    for before, _, after, _ in follow(sequence, rule):
        assert 1 <= after.round <= rule.rounds
        assert (after.round, after.index) >= (before.round, before.index) or after.finished
        assert after.answered | after.lost <= set(range(after.cohort))
        assert not after.answered & after.lost
        assert after.phase != "collecting" or len(after.answered | after.lost) < after.cohort


@given(st.lists(events, max_size=40), rules)
def test_it_is_a_pure_function(sequence, rule):
    for before, event, after, effects in follow(sequence, rule):
        assert step(before, event, rule) == (after, effects)


@given(st.lists(events, max_size=80), rules)
def test_a_released_set_is_exactly_those_who_answered_in_time(sequence, rule):
    # A model of its own: who spoke first decides, whoever is silent at the deadline is lost.
    open_, cohort, said = False, 0, {}
    for _, event, _, effects in follow(sequence, rule):
        if any(isinstance(e, Publish) for e in effects) or (isinstance(event, Opened) and not open_ and _settled(effects)):
            open_, cohort, said = True, event.cohort, {}
        elif open_ and isinstance(event, Answered | Lost):
            for p in event.positions:
                if 0 <= p < cohort:
                    said.setdefault(p, isinstance(event, Answered))
        elif open_ and isinstance(event, Deadline):
            said |= {p: False for p in range(cohort) if p not in said}
        answered = tuple(sorted(p for p, yes in said.items() if yes))
        released = [e.positions for e in effects if isinstance(e, Release)]
        if open_ and len(said) == cohort:
            assert _settled(effects)
            assert released == ([answered] if len(answered) >= rule.minimum else [])
            open_ = False
        else:
            assert not _settled(effects)


def _settled(effects) -> bool:
    return any(isinstance(e, Release | Abandon) for e in effects)


@given(st.lists(events, max_size=60), rules)
def test_a_sum_is_released_or_abandoned_never_both_and_not_below_the_minimum(sequence, rule):
    for _, _, after, effects in follow(sequence, rule):
        ends = [e for e in effects if isinstance(e, Release | Abandon)]
        assert len(ends) <= 1
        for end in ends:
            if isinstance(end, Release):
                assert len(end.positions) >= rule.minimum
                assert after.phase == "releasing"
            else:
                assert after.phase in ("ready", "finished")


@given(st.lists(events, max_size=60), rules)
def test_what_is_late_or_twice_changes_nothing(sequence, rule):
    for before, event, after, effects in follow(sequence, rule):
        if isinstance(event, Answered | Lost):
            again, repeated = step(after, event, rule)
            assert again == after
            assert all(isinstance(e, Ignore) for e in repeated)
            assert repeated or not event.positions
        if effects and all(isinstance(e, Ignore) for e in effects) and not isinstance(event, Answered | Lost):
            assert after == before


@given(rules, st.data())
def test_every_study_finishes_after_its_rounds(rule, data):
    progress, finished, rounds = Progress(), 0, []
    while not progress.finished:
        rounds.append(progress.round)
        cohort = data.draw(st.integers(0, 5))
        answers = data.draw(st.sets(st.integers(0, cohort - 1))) if cohort else set()
        sequence = [
            Opened(cohort),
            Answered(tuple(answers)),
            Deadline(),
            Applied(more=progress.index < 1 and data.draw(st.booleans())),
        ]
        for event in sequence:
            progress, effects = step(progress, event, rule)
            finished += sum(isinstance(e, Finish) for e in effects)
            if not progress.cohort and progress.phase == "ready":
                break
    assert finished == 1
    assert sorted(set(rounds)) == list(range(1, rule.rounds + 1))
    assert all(step(progress, event, rule)[0] == progress for event in (Opened(3), Answered((0,)), Deadline(), Applied(True)))


def test_a_study_of_two_rounds_of_which_the_first_has_two_sums():
    rule, seen = Rules(rounds=2, minimum=2), []
    for _, _, after, effects in follow(
        [
            Opened(3), Answered((2,)), Lost((1,)), Answered((0, 2)), Applied(more=True),
            Opened(2), Answered((0, 1)), Applied(more=False),
            Opened(3), Answered((1,)), Deadline(),
        ],
        rule,
    ):  # fmt: skip
        seen += [(after.round, after.index, effect) for effect in effects]
    kinds = [(round, index, type(effect)) for round, index, effect in seen]
    assert kinds == [
        (1, 0, Publish),
        (1, 0, Ignore),
        (1, 0, Release),
        (1, 1, Publish),
        (1, 1, Release),
        (2, 0, Publish),
        (2, 0, Abandon),
        (2, 0, Finish),
    ]
    assert seen[2][2] == Release((0, 2))
    assert seen[6][2] == Abandon("1 of 3 clients answered; at least 2 are needed.")


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        ("ready", Answered((0,))),
        ("ready", Deadline()),
        ("collecting", Opened(2)),
        ("releasing", Answered((0,))),
        ("finished", Opened(2)),
    ],
)
def test_an_event_out_of_place_is_ignored_with_a_reason(phase, event):
    progress = Progress(phase=phase, cohort=2)
    after, effects = step(progress, event, Rules(1))
    assert after == progress
    (ignored,) = effects
    assert isinstance(ignored, Ignore)
    assert type(event).__name__ in ignored.reason
    assert phase in ignored.reason


def test_an_empty_cohort_is_abandoned_without_asking_anyone():
    progress, effects = step(Progress(), Opened(0), Rules(2))
    assert [type(e) for e in effects] == [Abandon]
    assert progress == Progress(round=2)
