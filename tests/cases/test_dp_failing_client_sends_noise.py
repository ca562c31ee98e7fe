"""A client whose private training fails sends noise alone, as one without examples would; only its operator is told."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest

import manent as mn
from manent.core.errors import ClientFailed
from manent.core.protocols import Assignment, ClientContext
from manent.crypto import SystemRandom
from manent.crypto.random import InsecureTestRNG
from manent.crypto.samplers.gradients import ExactDraws
from manent.network.sandbox.child import Child
from manent.network.sandbox.handover import Data
from manent.network.site.training import OwnProcess, contribution
from manent.privacy.check import resolve
from tests.network.sandbox.test_child import CONTEXT, HOSTILE, NET, PRIVATE, SMALL, client, plan_of
from tests.network.world import data_of, study_of

BAD = 77.0
STEPS, BATCH, LR, CLIP, Z = 3, 4, 0.5, 1.5, 0.7
DPSGD = mn.DPSGD(CLIP, Z, sampling_probability=1.0)
LOCAL = mn.LocalSGD(lr=LR, steps=STEPS, batch_size=BATCH, privacy=DPSGD)


@dataclass(frozen=True)
class Raises(mn.LogisticModel):
    """Its gradient raises on one particular example."""

    def clipped_gradient_sum(self, vector, data, clip_norm):
        if (data.x[:, 0] == BAD).any():
            raise RuntimeError("there is something odd about this row")
        return super().clipped_gradient_sum(vector, data, clip_norm)


@dataclass(frozen=True)
class Overflows(mn.LogisticModel):
    """Its training of that example ends in NaN."""

    def train(self, works, data):
        trained = super().train(works, data)
        odd = [bool((one.x[:, 0] == BAD).any()) for one in data]
        return [
            replace(one, update=one.update * np.float32(np.nan)) if bad else one for one, bad in zip(trained, odd, strict=True)
        ]


@dataclass(frozen=True)
class Hopeless(mn.LogisticModel):
    """It fails whatever the data."""

    def train(self, works, data):
        raise RuntimeError("no driver was found")


def spoilt(data: mn.Federation, *which: int) -> mn.Federation:
    """The same data; some clients have the example."""
    clients = []
    for index, one in enumerate(data.clients):
        x = one.train.x.copy()
        x[:1, 0] = BAD if index in which else x[:1, 0]
        clients.append(replace(one, train=mn.Examples(x, one.train.y, one.train.columns)))
    return replace(data, clients=tuple(clients))


def study(model: mn.LogisticModel, **fields: object) -> mn.Study:
    return study_of(algorithm=mn.FedAvg(model, LOCAL, weighting="equal"), **fields)


def noise_alone(draws: ExactDraws, start: np.ndarray) -> np.ndarray:
    """What DP-SGD gives where every step's sum is zero, worked out here."""
    w = start.copy()
    for _ in range(STEPS):
        draws.rows(1.0, 0)
    for _ in range(STEPS):
        w -= np.float32(LR) * (draws.noisy(np.zeros(len(w)), CLIP, Z) / BATCH).astype(np.float32)
    return w - start


@pytest.mark.parametrize("layers", [(), (mn.Clip(1e6),)], ids=["bare", "behind a clip"])
@pytest.mark.parametrize("model", [Raises(3), Overflows(3)], ids=["raises", "NaN"])
def test_its_vector_is_to_the_bit_that_of_a_client_without_examples(model, layers, caplog):
    data = spoilt(data_of(3), 0)
    plan = resolve(study(model, layers=layers), data)
    own, start = data.clients[0], np.array([0.3, -0.2, 0.1, 0.4], np.float32)
    assignment = Assignment("train", {"model": start})

    def context(seed: int) -> ClientContext:
        return ClientContext(own.name, 1, 0, draws=ExactDraws(InsecureTestRNG(seed)))

    with caplog.at_level(logging.WARNING, "manent.site"):
        sent, _ = contribution(plan, OwnProcess(plan, own), assignment, None, context(5), SystemRandom())
    assert [getattr(record, "sent", "") for record in caplog.records] == ["noise alone"]
    same = context(5)
    try:  # the same draws are used up by the attempt that fails
        plan.study.algorithm.answer(assignment, [own], [None], [same])
    except RuntimeError:
        assert isinstance(model, Raises)
    np.testing.assert_array_equal(sent, noise_alone(same.draws, start))
    assert np.abs(sent).min() > 0
    empty = plan.study.algorithm.answer(assignment, [own.emptied()], [None], [again := context(6)])[0].vector
    np.testing.assert_array_equal(empty, noise_alone(replace(again, draws=ExactDraws(InsecureTestRNG(6))).draws, start))


@pytest.mark.parametrize("summation", [mn.Plain(), mn.SecAgg(minimum_cohort=3, dropped=0.2)], ids=["plain", "secagg"])
def test_in_a_simulation_nothing_that_is_shown_tells_of_it(summation, tmp_path):
    honest, broken = data_of(6), spoilt(data_of(6), 2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = mn.simulate(study(Raises(3), summation=summation), honest, workers=0)
    with pytest.warns(UserWarning, match="client.*odd about this row; noise alone is sent instead"):
        second = mn.simulate(study(Raises(3), summation=summation), broken, workers=0, folder=tmp_path / "run")
    assert len(second.history) == 2
    for ours, theirs in zip(first.history, second.history, strict=True):
        assert set(ours) == set(theirs)
        assert {k: v for k, v in ours.items() if k != "update_norm"} == {k: v for k, v in theirs.items() if k != "update_norm"}
        assert theirs["answers"] == 6
    assert np.isfinite(second.result["model"]).all()


def test_what_a_site_sends_has_the_same_form_whether_it_failed_or_not():
    data = spoilt(data_of(4), 1)
    plan = resolve(study(Raises(3)), data)
    sizes = set()
    for one in data.clients:
        context = ClientContext(one.name, 1, 0, draws=ExactDraws(SystemRandom()))
        assignment = Assignment("train", {"model": np.zeros(4, np.float32)})
        vector, memory = contribution(plan, OwnProcess(plan, one), assignment, None, context, SystemRandom())
        sizes.add((vector.dtype, vector.shape, memory is None, bool(np.isfinite(vector).all()), bool(vector.all())))
    assert len(sizes) == 1


def test_what_fails_without_an_example_too_is_a_fault_of_the_code_and_stops():
    with pytest.raises(mn.ClientFailed, match="no driver was found"):
        mn.simulate(study(Hopeless(3)), data_of(3), workers=0)
    data = data_of(3)
    plan = resolve(study(Hopeless(3)), data)
    context = ClientContext("client-0", 1, 0, draws=ExactDraws(SystemRandom()))
    assignment = Assignment("train", {"model": np.zeros(4, np.float32)})
    with pytest.raises(ClientFailed, match="no driver was found"):
        contribution(plan, OwnProcess(plan, data.clients[0]), assignment, None, context, SystemRandom())


def test_training_that_is_not_private_stops_as_ever():
    local = mn.LocalSGD(lr=LR, steps=STEPS, batch_size=BATCH)
    bare = study_of(algorithm=mn.FedAvg(Hopeless(3), local))
    with pytest.raises(mn.ClientFailed, match="no driver was found"):
        mn.simulate(bare, data_of(3), workers=0)


FAILS = """

def _fails(self, works, data, inner=Net.train):
    if len(data[0]):
        raise RuntimeError("an odd row")
    return inner(self, works, data)


Net.train = _fails
"""


def test_a_studys_own_code_in_its_own_process_too(caplog):
    plan = plan_of(mn.FedAvg(NET, PRIVATE))
    with Data.of(client()) as data, Child({"study.py": HOSTILE + FAILS}, plan, data, SMALL, isolation="preferred") as child:
        context = replace(CONTEXT, draws=ExactDraws(SystemRandom()))
        assignment = Assignment("train", {"model": np.zeros(4, np.float32)})
        with pytest.raises(ClientFailed, match="odd row"):
            child.answer(assignment, None, context)
        with caplog.at_level(logging.WARNING, "manent.site"):
            sent = [contribution(plan, child, assignment, None, context, SystemRandom())[0] for _ in range(2)]
    assert not np.array_equal(*sent)
    # Two steps of noise of deviation 1/4, times a learning rate of .1: 8 deviations are exceeded with a chance below 1e-13.
    assert all(0 < np.abs(vector).max() < 8 * 0.1 * 2**0.5 / 4 * 1.01 for vector in sent)
    assert [getattr(record, "sent", "") for record in caplog.records] == ["noise alone"] * 2


def test_in_torch_an_example_that_the_network_fails_for_is_dropped_by_itself():
    torch = pytest.importorskip("torch")

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x):
            if (x == BAD).any():
                raise RuntimeError("there is something odd about this row")
            return self.layer(x)

    from manent.models.torch import TorchModel

    model = TorchModel(Odd(), loss="cross_entropy", classes=2)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(9, 3)).astype(np.float32), np.arange(9) % 2
    start, odd = model.init(rng), x.copy()
    odd[[0, 4], 1] = BAD
    kept = np.delete(np.arange(9), [0, 4])
    with pytest.warns(UserWarning, match="failed for an example, which adds nothing: .*odd about this row"):
        found, _ = model.clipped_gradient_sum(start, mn.Examples(odd, y), 0.5)
    np.testing.assert_array_equal(found, model.clipped_gradient_sum(start, mn.Examples(x[kept], y[kept]), 0.5)[0])


def test_a_torch_network_that_fails_for_every_example_raises():
    torch = pytest.importorskip("torch")

    class Hopeless(torch.nn.Linear):
        def forward(self, x):
            raise RuntimeError("no driver was found")

    from manent.models.torch import TorchModel

    model = TorchModel(Hopeless(3, 2), loss="cross_entropy", classes=2)
    rows = mn.Examples(np.ones((4, 3), np.float32), np.zeros(4, np.int64))
    with pytest.raises(Exception, match="no driver was found"):
        model.clipped_gradient_sum(np.zeros(8, np.float32), rows, 0.5)
