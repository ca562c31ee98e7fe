"""One example that joins or leaves moves the clipped sum by one clip norm, whatever the network draws at random.

Masks that follow a row's place in the batch move every row behind it: 14 clip norms, where the statement counts one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import manent as mn  # noqa: E402
from manent.core.training import LocalSGD, LocalTraining  # noqa: E402
from manent.core.training.dpsgd import SUM_SLACK  # noqa: E402
from manent.models.torch import TorchModel, seeded  # noqa: E402

CLIP = 0.1


def networks() -> dict[str, nn.Module]:
    return {
        name: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), layer, nn.Linear(64, 2))
        for name, layer in {
            "Dropout": nn.Dropout(0.5),
            "AlphaDropout": nn.AlphaDropout(0.5),
            "RReLU": nn.RReLU(-1, 1),
            "without": nn.Identity(),
        }.items()
    }


@pytest.mark.parametrize("name", ["Dropout", "AlphaDropout", "RReLU", "without"])
@pytest.mark.parametrize("place", [0, 100, 199])
def test_removing_or_replacing_one_of_200_rows(name: str, place: int) -> None:
    torch.manual_seed(0)
    model = TorchModel(networks()[name], "cross_entropy", initial="given")
    model.check_private()
    rng = np.random.default_rng(0)
    x, y = (3 * rng.normal(size=(200, 8))).astype(np.float32), rng.integers(0, 2, 200)
    vector = model.init(rng)

    def total(x: Any, y: Any) -> Any:
        with seeded(5):
            return model.clipped_gradient_sum(vector, mn.Examples(x, y), CLIP)[0]

    whole, rest = total(x, y), np.delete(np.arange(200), place)
    np.testing.assert_array_equal(whole, total(x, y))
    assert np.linalg.norm(whole - total(x[rest], y[rest])) <= CLIP * (1 + SUM_SLACK)
    other = x.copy()
    other[place] *= 1000
    assert np.linalg.norm(whole - total(other, y)) <= 2 * CLIP * (1 + SUM_SLACK)


class Bare:
    """Draws that add nothing, so that what training computes can be seen."""

    secure = False

    def rows(self, probability: float, examples: int) -> Any:
        raise AssertionError("batches are drawn before training")

    def noisy(self, total: Any, clip_norm: float, noise_multiplier: float) -> Any:
        return total


def test_each_step_draws_anew_and_a_step_of_training_moves_by_one() -> None:
    torch.manual_seed(0)
    model = TorchModel(networks()["Dropout"], "cross_entropy", initial="given")
    rng = np.random.default_rng(0)
    data = mn.Examples((3 * rng.normal(size=(50, 8))).astype(np.float32), rng.integers(0, 2, 50))
    vector = model.init(rng)

    def update(rows: Any, steps: int = 1, lr: float = 1.0) -> Any:
        local = LocalSGD(lr=lr, steps=steps, batch_size=1, privacy=mn.DPSGD(CLIP, 1.0, sampling_probability=0.5))
        work = LocalTraining(vector, [rows] * steps, local, lr, seed=9, draws=Bare())
        return model.train([work], [data])[0].update

    everyone = np.arange(50)
    for place in (0, 25, 49):
        moved = update(everyone) - update(np.delete(everyone, place))
        assert np.linalg.norm(moved) <= CLIP * (1 + SUM_SLACK) + 1e-5  # the weights are float32
    # With a rate so small that weights hardly move, two steps with the same masks would be twice one step.
    one, two = update(everyone, 1, 1e-3), update(everyone, 2, 1e-3)
    assert np.linalg.norm(two - 2 * one) > 0.1 * np.linalg.norm(one)
