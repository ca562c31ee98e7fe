"""The client's half of a round: what is checked, when zeros are sent, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest

import manent as mn
from manent.core.errors import InvalidInput
from manent.core.protocols import Assignment, Contribution
from manent.privacy import resolve
from manent.rounds.client import checked, outcomes, summed
from tests.privacy.feedback import SIZE, Feedback, Known
from tests.privacy.studies import DATA, study

BARE, CLIPPED, PRIVATE = (resolve(study(layers), DATA) for layers in ([], [mn.Clip(0.5)], [mn.Clip(0.5), mn.CentralNoise(1.0)]))
LENGTH = BARE.sums["train"].layout.size


def answer(value: float = 1.0, memory: np.ndarray | None = None) -> Contribution:
    return Contribution(np.full(LENGTH, value, np.float32), memory)


def asked(plan, group, ask):
    return list(outcomes(plan, "train", group, ask, ask))


def test_an_answer_that_fits_is_passed_on():
    found = asked(BARE, ["a", "b"], lambda group: [answer(1), answer(2)])
    assert [one.contribution.vector[0] for one in found] == [1, 2]
    assert not any(one.error or one.not_finite or one.lost for one in found)


@pytest.mark.parametrize(
    ("contribution", "words"),
    [
        (Contribution(np.zeros(LENGTH + 1, np.float32)), "numbers"),
        (answer(memory=np.zeros(3, np.float32)), "its algorithm declares 0 numbers"),
        (answer(np.nan), "training diverged"),
        (answer(np.inf), "training diverged"),
    ],
)
def test_an_answer_that_does_not_fit_is_an_error(contribution, words):
    with pytest.raises(InvalidInput, match=words):
        checked(BARE, "train", contribution)


@pytest.mark.parametrize("plan", [CLIPPED, PRIVATE])
def test_behind_a_clip_what_is_not_finite_becomes_zeros(plan):
    found = checked(plan, "train", answer(np.nan))
    assert found.not_finite in plan.sums["train"].layout.unflatten(np.zeros(LENGTH))
    assert not found.contribution.vector.any()
    assert not found.lost


def test_behind_a_clip_what_is_not_finite_leaves_what_the_client_has_kept():
    plan = resolve(mn.Study(Known(True), 2, layers=(mn.Clip(0.5),)), DATA)
    size, kept = plan.sums["one"].layout.size, np.ones(plan.own, np.float32)
    good, bad = (checked(plan, "one", Contribution(np.full(size, x, np.float32), kept)) for x in (1, np.nan))
    assert plan.own > 0
    assert good.contribution.memory is kept
    assert bad.not_finite
    assert bad.contribution.memory is None


def raising(group):
    if "b" in group:
        raise RuntimeError(f"asked {len(group)} at once")
    return [answer() for _ in group]


@pytest.mark.parametrize(("plan", "lost"), [(BARE, True), (CLIPPED, True), (PRIVATE, False)])
def test_of_several_the_one_that_fails_is_found_and_behind_noise_it_sends_zeros(plan, lost):
    first, second, third = asked(plan, ["a", "b", "c"], raising)
    assert not first.error
    assert not third.error
    assert str(second.error) == "asked 1 at once"
    assert second.lost == lost
    assert not second.contribution.vector.any()


def test_too_few_answers_are_an_error():
    (found,) = asked(BARE, ["a"], lambda group: [])
    assert found.lost
    assert "gave 0 contributions for 1 clients" in str(found.error)


def test_a_client_keeps_what_it_had_where_its_algorithm_says_nothing():
    plan = resolve(mn.Study(Known(True), 2, layers=(Feedback(2),)), DATA)
    name, part = next(iter(plan.kept.items()))
    row = np.arange(plan.memory.size, dtype=np.float32)
    vector = np.arange(SIZE, dtype=np.float32)
    size = plan.sums[name].layout.size
    term = Contribution(np.resize(vector, size), None)
    found, after = summed(plan, Assignment(name), term, lambda: row.copy(), mn.InsecureTestRNG(0))
    assert found.shape == (plan.stacks[name].layout.size,)
    np.testing.assert_array_equal(after[: plan.own], row[: plan.own])
    assert part.start >= plan.own
    own = Contribution(term.vector, np.full(plan.own, 7, np.float32))
    _, after = summed(plan, Assignment(name), own, lambda: row.copy(), mn.InsecureTestRNG(0))
    assert (after[: plan.own] == 7).all()


def test_a_study_that_keeps_nothing_gives_no_row():
    vector, row = summed(BARE, Assignment("train"), answer(), None, mn.InsecureTestRNG(0))
    assert row is None
    np.testing.assert_array_equal(vector, answer().vector)
