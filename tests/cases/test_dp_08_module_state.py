"""What a module keeps in attributes: refused by name in private training, put back for each client outside it.

The kind: what Opacus' validator asks of buffers and state (pytorch/opacus#445). A home-made running mean lets one example move
the gradients of all that come later, and lets clients' results depend on who trained before them in the same process.
"""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import manent as mn  # noqa: E402
from manent.core.errors import Refused  # noqa: E402
from manent.core.training import LocalSGD, LocalTraining  # noqa: E402
from manent.core.training.dpsgd import SUM_SLACK  # noqa: E402
from manent.models.torch import TorchModel  # noqa: E402
from manent.models.torch.stack import stack_of  # noqa: E402

CALLS = 0
CLIP = 0.5


class Keeping(nn.Module):
    """Keeps something in one of many ways, and computes with it."""

    shared = 0.0

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(6, 5)
        self.mean: Any = None
        self.count, self.flip, self.seen, self.named = 0, False, [], {}
        self.last, self.tick = collections.deque(maxlen=2), itertools.count()
        self.held, self.source = torch.zeros(6), torch.Generator()
        self.big = torch.zeros(40_000)
        self.array, self.noise = np.zeros(6), np.random.default_rng(0)
        self.register_buffer("inside", torch.zeros(6))

    def forward(self, x: Any) -> Any:
        if self.how == "CALLS":
            return self.layer(x + calls(self, x))
        return self.layer(x + WAYS[self.how](self, x))


def mean(m: Any, x: Any) -> Any:
    here = x.mean(0).detach()
    m.mean = here if m.mean is None else 0.5 * (m.mean + here)
    return m.mean


def count(m: Any, x: Any) -> Any:
    m.count += 1
    return m.count


def flip(m: Any, x: Any) -> Any:
    m.flip = not m.flip
    return float(m.flip)


def seen(m: Any, x: Any) -> Any:
    m.seen.append(x.sum().item())
    return sum(m.seen)


def named(m: Any, x: Any) -> Any:
    m.named["sum"] = m.named.get("sum", 0) + x.sum().item()
    return m.named["sum"]


def last(m: Any, x: Any) -> Any:
    m.last.append(x.sum().item())
    return m.last[0]


def held(m: Any, x: Any) -> Any:
    m.held.add_(x.detach().mean(0))
    return m.held


def array(m: Any, x: Any) -> Any:
    m.array += x.detach().numpy().mean(0)
    return torch.from_numpy(m.array).float()


def big(m: Any, x: Any) -> Any:
    m.big[:6] += x.detach().mean(0)
    return m.big[:6].clone()


def shared(m: Any, x: Any) -> Any:
    Keeping.shared += 1
    return Keeping.shared


def calls(m: Any, x: Any) -> Any:
    global CALLS
    CALLS += 1
    return CALLS


def new(m: Any, x: Any) -> Any:
    m.fresh = getattr(m, "fresh", 0) + 1
    return m.fresh


def buffer(m: Any, x: Any) -> Any:
    m.register_buffer("more", x.detach().mean(0) + getattr(m, "more", 0))
    return m.more


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "mean": mean,
    "count": count,
    "flip": flip,
    "seen": seen,
    "named": named,
    "last": last,
    "held": held,
    "array": array,
    "big": big,
    "shared": shared,
    "CALLS": calls,
    "fresh": new,
    "more": buffer,
    "tick": lambda m, x: next(m.tick),
    "source": lambda m, x: torch.rand(6, generator=m.source),
    "noise": lambda m, x: torch.from_numpy(m.noise.normal(size=6)).float(),
    "numpy.random": lambda m, x: float(np.random.rand()),  # noqa: NPY002
    "Python's random": lambda m, x: random.random(),
    "nothing": lambda m, x: 0,
}


def loss(scores: Any, y: Any) -> Any:
    return nn.functional.cross_entropy(scores, y)


def data(rows: int = 12) -> mn.Examples:
    return mn.Examples(np.random.default_rng(1).normal(size=(rows, 6)).astype(np.float32), np.arange(rows) % 5)


@pytest.mark.parametrize("how", [how for how in WAYS if how != "nothing"])
def test_what_a_module_keeps_is_refused_by_name(how: str) -> None:
    model = TorchModel(Keeping(how), loss, kind="multiclass", initial="given", classes=5)
    vector = model.init(np.random.default_rng(0))
    for _ in range(2):  # a refusal leaves nothing behind that would let the next pass through
        with pytest.raises(Refused, match=f"{how}") as caught:
            model.clipped_gradient_sum(vector, data(), CLIP)
        assert "With DPSGD" in str(caught.value)


def test_what_only_computes_passes() -> None:
    model = TorchModel(Keeping("nothing"), loss, kind="multiclass", initial="given", classes=5)
    vector = model.init(np.random.default_rng(0))
    other = data()
    other.x[0] *= 1000
    moved = model.clipped_gradient_sum(vector, data(), CLIP)[0] - model.clipped_gradient_sum(vector, other, CLIP)[0]
    assert np.linalg.norm(moved) <= 2 * CLIP * (1 + SUM_SLACK)


def test_state_that_python_cannot_see_is_found_by_computing_again() -> None:
    hidden = iter(np.random.default_rng(0).normal(size=10_000))

    class Pulling:
        __slots__ = ()

        def __reduce_ex__(self, protocol: Any) -> Any:
            return Pulling, ()

        def __deepcopy__(self, memo: Any) -> Any:
            return self

        def pull(self) -> float:
            return float(next(hidden))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.pulling = nn.Linear(6, 5), Pulling()

        def forward(self, x: Any) -> Any:
            return self.layer(x) * self.pulling.pull()

    model = TorchModel(Network(), loss, kind="multiclass", initial="given", classes=5)
    with pytest.raises(Refused, match="another gradient when it came again"):
        model.clipped_gradient_sum(model.init(np.random.default_rng(0)), data(), CLIP)


class Remembering(nn.Module):
    """A loss with a memory."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, scores: Any, y: Any) -> Any:
        self.steps += 1
        return self.steps * nn.functional.cross_entropy(scores, y)


def counted() -> Callable[[Any, Any], Any]:
    steps = 0

    def remembering(scores: Any, y: Any) -> Any:
        nonlocal steps
        steps += 1
        return steps * nn.functional.cross_entropy(scores, y)

    return remembering


@pytest.mark.parametrize(("make", "name"), [(Remembering, "'loss' .* 'steps'"), (counted, "The loss keeps")])
def test_a_loss_that_remembers_is_refused(make: Callable[[], Any], name: str) -> None:
    model = TorchModel(nn.Sequential(nn.Linear(6, 5)), make(), kind="multiclass", classes=5)
    with pytest.raises(Refused, match=name):
        model.clipped_gradient_sum(model.init(np.random.default_rng(0)), data(), CLIP)


PUT_BACK = ["mean", "count", "flip", "seen", "named", "last", "held", "array", "big", "fresh", "more", "tick", "source", "noise"]


@pytest.mark.parametrize("how", PUT_BACK)
@pytest.mark.parametrize("together", [1, 2])
def test_outside_private_training_no_state_passes_between_clients(how: str, together: int) -> None:
    def results(order: list[int]) -> dict[int, Any]:
        model = TorchModel(Keeping(how), loss, kind="multiclass", initial="given", classes=5, together=together)
        local = LocalSGD(lr=0.1, steps=3, batch_size=4)
        vector = np.full(model.layout.size, 0.1, np.float32)
        works = [LocalTraining(vector, [np.arange(4) + n] * 3, local, 0.1) for n in order]
        return dict(zip(order, (t.vector for t in model.train(works, [data()] * len(order))), strict=True))

    first, second = results([0, 1, 2]), results([2, 0, 1])
    for client in first:
        np.testing.assert_array_equal(first[client], second[client])


class Straight(nn.Module):
    """A chain, but for what it keeps of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.kept = nn.Linear(6, 4), nn.Linear(4, 3), []

    def forward(self, x: Any) -> Any:
        self.kept.append(x)
        return self.b(torch.relu(self.a(x)))


def test_tracing_leaves_nothing_in_the_network() -> None:
    network = Straight()
    assert stack_of(network, "cross_entropy") is None
    assert network.kept == []
    model = TorchModel(network, "cross_entropy")
    rows = mn.Examples(data().x, np.arange(12) % 3)
    model.evaluate(model.init(np.random.default_rng(0)), rows)
    assert all(type(x) is torch.Tensor for x in model._network.module.kept)
