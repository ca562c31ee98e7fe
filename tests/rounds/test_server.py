"""The server's half of a round: the assignment, the release, the state's codec, and what history says of a private sum."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import manent as mn
from manent.core.errors import InvalidInput
from manent.core.randomness import repeatable
from manent.crypto import SystemRandom
from manent.privacy import resolve
from manent.rounds.reducer import Answered, Applied, Deadline, Opened, Progress, Release, Rules, follow, step
from manent.rounds.server import (
    ROW,
    abandoned_reason,
    assignment_bytes,
    assignment_of,
    completed,
    crossed,
    finite,
    first_state,
    released,
    result_of,
    rules_of,
    upload_bytes,
)
from manent.rounds.state import State
from tests.privacy.studies import DATA, study

PLAIN = resolve(study([]), DATA)
ADAPTIVE = resolve(study([mn.AdaptiveClip(), mn.CentralNoise(0.2)], cohort=mn.Cohort(sampling_probability=0.5)), DATA)


def test_the_first_state_is_the_algorithms_and_the_layers():
    state = first_state(ADAPTIVE, 3)
    expected = ADAPTIVE.study.algorithm.init(ADAPTIVE.public, repeatable(3, "init"))
    np.testing.assert_array_equal(state.arrays["model"], expected["model"])
    assert set(state.layers) == set(ADAPTIVE.stacks)
    given = np.full(state.arrays["model"].size, 2, np.float32)
    np.testing.assert_array_equal(first_state(ADAPTIVE, 3, given).arrays["model"], given)


def test_a_first_vector_that_does_not_fit_is_refused():
    size = first_state(PLAIN, 0).arrays["model"].size
    for wrong in (np.zeros(size + 1, np.float32), np.full(size, np.nan, np.float32)):
        with pytest.raises(InvalidInput):
            first_state(PLAIN, 0, wrong)
    query = resolve(mn.Study(mn.Mean("age")), mn.data.heart_disease())
    with pytest.raises(InvalidInput, match="trains no model"):
        first_state(query, 0, np.zeros(1, np.float32))


@pytest.mark.parametrize("name", ["round", "sum", "cohort", "answers", "bytes_up", "bytes_down", "abandoned"])
def test_a_report_cannot_overwrite_what_the_history_says(name, monkeypatch):
    apply = mn.FedAvg.apply
    monkeypatch.setattr(mn.FedAvg, "apply", lambda *given: (apply(*given)[0], {"loss": 1.0, name: 0.0}))
    state, total = first_state(PLAIN, 0), np.ones(PLAIN.stacks["train"].layout.size)
    assignment = assignment_of(PLAIN, state, 1, 0)
    with pytest.raises(InvalidInput, match=f"FedAvg reports '{name}', which the history says by itself. Choose another name"):
        released(PLAIN, state, Progress(), assignment, total, 3, SystemRandom())


def test_a_row_of_the_history_has_no_other_names_of_its_own():
    """So that what `released` refuses is all that a report could overwrite."""
    counts = {"asked": 1, "answers": 1, "sent": 1, "sent_to": 1}
    assert ROW - {"round", "sum", "abandoned"} == set(crossed(PLAIN, "train", **counts))
    run = mn.simulate(study([]), DATA, workers=0)
    assert set(run.history[0]) == ROW - {"abandoned"} | {"update_norm"}


def test_clients_are_sent_what_the_layers_need_too():
    state = first_state(ADAPTIVE, 0)
    found = assignment_of(ADAPTIVE, state, 1, 0)
    given = ADAPTIVE.study.algorithm.assign(state.arrays, 1, 0)
    assert set(found.arrays) > set(given.arrays)
    assert set(completed(ADAPTIVE, given, state.layers["train"]).arrays) == set(found.arrays)
    assert assignment_bytes(found) == sum(array.nbytes for array in found.arrays.values())
    assert assignment_of(ADAPTIVE, state, 1, 1) is None


def test_a_state_comes_back_from_its_bytes_and_from_its_names():
    state = first_state(ADAPTIVE, 0)
    data = b"".join(state.pieces())
    for found in (State.read([data], len(data), ADAPTIVE.stacks), State.of(state.named(), ADAPTIVE.stacks)):
        assert {name: array.tobytes() for name, array in found.named().items()} == {
            name: array.tobytes() for name, array in state.named().items()
        }
    assert set(state.named()) >= {"state.model", "layers.train/layer.0.norm"}
    assert State.of({"state.model": np.zeros(1), "current": np.zeros(1)}, ["train"]).layers == {"train": {}}
    with pytest.raises(InvalidInput):
        State.read([b"nothing"], 7, ADAPTIVE.stacks)


def test_a_release_moves_the_state_and_leaves_the_old_one_alone():
    state = first_state(PLAIN, 0)
    assignment, before = assignment_of(PLAIN, state, 1, 0), state.arrays["model"].copy()
    total = np.ones(PLAIN.stacks["train"].layout.size)
    found = released(PLAIN, state, Progress(), assignment, total, 20, mn.InsecureTestRNG(0))
    np.testing.assert_array_equal(state.arrays["model"], before)
    assert np.any(found.state.arrays["model"] != before)
    assert found.more is False
    assert np.isfinite(list(found.report.values())).all()
    assert set(result_of(PLAIN, found.state)) == {"model"}


def test_of_a_private_sum_history_tells_what_was_expected():
    assert crossed(PLAIN, "train", asked=9, answers=7, sent=100, sent_to=8) == {
        "cohort": 9, "answers": 7, "bytes_up": 7 * upload_bytes(PLAIN, "train"), "bytes_down": 800,
    }  # fmt: skip
    expected = round(ADAPTIVE.divisor)
    assert crossed(ADAPTIVE, "train", asked=9, answers=7, sent=100, sent_to=8) == {
        "cohort": expected, "answers": expected, "bytes_up": expected * upload_bytes(ADAPTIVE, "train"),
        "bytes_down": 100 * expected,
    }  # fmt: skip
    assert abandoned_reason(PLAIN, "3 of 9 answered") == "3 of 9 answered"
    assert "9" not in abandoned_reason(ADAPTIVE, "3 of 9 answered")


def test_of_a_private_sum_the_algorithm_is_told_what_was_expected():
    told = []

    class Telling:
        def apply(self, arrays, assignment, given):
            told.append((given.answers, given.divisor))
            return arrays, {}

        def assign(self, arrays, round, index):
            return None

    for plan in (ADAPTIVE, PLAIN):
        state = first_state(plan, 3)
        assignment, deaf = assignment_of(plan, state, 1, 0), replace(plan, study=SimpleNamespace(algorithm=Telling()))
        total = np.zeros(plan.stacks["train"].layout.size, plan.stacks["train"].dtype)
        for answers in (1, 9):
            released(deaf, state, Progress(), assignment, total, answers, SystemRandom())
    assert told == [(round(ADAPTIVE.divisor), ADAPTIVE.divisor)] * 2 + [(1, None), (9, None)]


def test_events_are_followed_one_after_another():
    rules = rules_of(PLAIN)
    assert rules == Rules(3, PLAIN.gathering.minimum)
    progress, effects = follow(Progress(), rules, Opened(2), Answered((0,)), Deadline())
    expected, at = [], Progress()
    for event in (Opened(2), Answered((0,)), Deadline()):
        at, found = step(at, event, rules)
        expected += found
    assert (progress, effects) == (at, expected)
    assert effects[-1] == Release((0,))
    assert follow(progress, rules, Applied(False))[0] == Progress(round=2)
    assert follow(progress, rules) == (progress, [])


def test_only_finite_numbers_are_told():
    assert finite({"a": 1, "b": np.float32(2), "c": np.nan, "d": np.inf}) == {"a": 1.0, "b": 2.0}
