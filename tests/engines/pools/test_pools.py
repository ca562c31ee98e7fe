"""Which pool a study gets, and that all of them answer and measure alike."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import manent as mn
from manent.engines.clients import ClientSide, Unit
from manent.engines.conditions import Conditions
from manent.engines.pools import Forked, InProcess, Pool, Threads, start_pool
from manent.privacy import resolve
from manent.rounds.server import assignment_of, first_state
from tests.privacy.studies import DATA, LOCAL, MODEL

KINDS = {"forked": partial(Forked, 2), "threads": partial(Threads, 2), "in process": InProcess}


def side(algorithm: mn.FedAvg | None = None) -> ClientSide:
    plan = resolve(mn.Study(algorithm or mn.FedAvg(MODEL, LOCAL)), DATA)
    return ClientSide(plan, DATA.clients, 0, Conditions(), None, None)


def measure(vector, client) -> dict[str, float]:
    return {"rows": float(len(client.train)), "first": float(vector[0])}


@dataclass(frozen=True)
class Traits:
    """A model with other traits; of the rest it is `MODEL`."""

    threadsafe: bool = False
    together: int = 1

    def __getattr__(self, name):
        return getattr(MODEL, name)


@pytest.mark.parametrize(
    ("count", "model", "kind"),
    [(0, Traits(), InProcess), (2, Traits(), Forked), (2, Traits(threadsafe=True), Threads), (0, Traits(True), InProcess),
     (2, Traits(together=4), InProcess)],
)  # fmt: skip
def test_the_model_decides_which_pool_it_gets(count, model, kind):
    algorithm = SimpleNamespace(model=model, together=model.together)
    stacks = {"train": SimpleNamespace(layout=MODEL.layout)}
    plan = SimpleNamespace(study=SimpleNamespace(algorithm=algorithm), stacks=stacks)
    own = ClientSide(plan, DATA.clients, 0, Conditions(), None, None)
    pool: Pool = start_pool(count, own, measure)
    try:
        assert type(pool) is kind
        assert pool.size == max(count, 1) if kind is not InProcess else pool.size == 1
    finally:
        pool.terminate()


def test_where_nothing_forks_this_process_works(monkeypatch):
    monkeypatch.delattr(os, "fork")
    assert isinstance(start_pool(2, side(), measure), InProcess)


@pytest.mark.parametrize("kind", KINDS)
def test_all_pools_answer_and_measure_alike(kind):
    own = side()
    assignment = assignment_of(own.plan, first_state(own.plan, 0), 1, 0)
    units = [Unit("train", 1, 0, 2, i, 20, tuple(range(4 * i, 4 * i + 4))) for i in range(5)]
    expected = {unit.index: ClientSide.answer(side(), unit, assignment).partial.total.copy() for unit in units}
    pool = KINDS[kind](own, measure)
    with closing(SimpleNamespace(close=pool.terminate)):
        for _ in range(2):
            pool.publish(assignment)
            found = {answer.partial.index: np.array(answer.partial.total) for answer in pool.answers(units)}
            assert set(found) == set(expected)
            for index, total in expected.items():
                np.testing.assert_array_equal(found[index], total)
        assert pool.measure(assignment.arrays["model"], [3, 1]) == [
            measure(assignment.arrays["model"], DATA.clients[i]) for i in (3, 1)
        ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("raised", "expected", "why"),
    [
        (mn.InvalidInput("The model does not fit."), mn.InvalidInput, "^The model does not fit.$"),
        (mn.Refused("Not so."), mn.Refused, "^Not so.$"),
        (mn.MissingExtra("torch", "torch", "It"), mn.ManentError, "It needs the package 'torch'"),
        (ZeroDivisionError("by zero"), (mn.ManentError, ZeroDivisionError), "by zero"),
    ],
)
def test_what_is_raised_in_a_worker_is_raised_by_the_pool(kind, raised, expected, why):
    """A worker that raises is not one that died."""

    def failing(vector, client):
        raise raised

    pool = KINDS[kind](side(), failing)
    with closing(SimpleNamespace(close=pool.terminate)), pytest.raises(expected, match=why) as caught:
        pool.measure(np.zeros(MODEL.layout.size, np.float32), [0, 1])
    assert "died" not in str(caught.value)
    assert type(caught.value) is not mn.ManentError or "in failing" in str(caught.value)
