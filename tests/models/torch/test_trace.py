"""Modules with a forward of their own: which are straight lines of layers, and which must not be taken for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import manent as mn
from manent.core.randomness import repeatable
from manent.models.torch.stack import stack_of
from manent.models.torch.trace import traced


class Net(nn.Module):
    """Three layers, and a forward that is given."""

    def __init__(self, forward, backwards: bool = False) -> None:
        super().__init__()
        sizes = [("one", (6, 5)), ("two", (5, 5)), ("three", (5, 3))]
        for name, (inputs, outputs) in reversed(sizes) if backwards else sizes:
            setattr(self, name, nn.Linear(inputs, outputs))
        self.drop, self.act, self.norm = nn.Dropout(0.5), nn.ReLU(), nn.LayerNorm(5)
        if "norm" not in forward.__code__.co_names:
            del self.norm
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


STRAIGHT = {
    "functional": lambda self, x: self.three(functional.relu(self.two(functional.relu(self.one(x))))),
    "methods": lambda self, x: self.three(self.two(self.one(x).relu()).relu()),
    "modules": lambda self, x: self.three(self.act(self.two(self.act(self.one(x))))),
    "flattened": lambda self, x: self.three(torch.relu(self.two(torch.relu(self.one(torch.flatten(x, 1)))))),
}
OTHERWISE = {
    "a residual": lambda self, x: self.three(self.one(x) + functional.relu(self.two(self.one(x)))),
    "a skip of the values": lambda self, x: (lambda h: self.three(functional.relu(self.two(h)) + h))(self.one(x)),
    "dropout": lambda self, x: self.three(self.drop(self.two(self.one(x)))),
    "functional dropout": lambda self, x: self.three(functional.dropout(self.two(self.one(x)), 0.5)),
    "a norm": lambda self, x: self.three(self.norm(self.two(self.one(x)))),
    "another in evaluation": lambda self, x: self.three(self.two(self.one(x))) if self.training else self.three(self.one(x)),
    "a weight left out": lambda self, x: self.three(self.one(x)),
    "a layer twice": lambda self, x: self.three(self.two(self.two(self.one(x)))),
    "a branch on the values": lambda self, x: self.three(self.two(self.one(x)) if x.sum() > 0 else self.one(x)),
    "a scaled output": lambda self, x: 2 * self.three(self.two(self.one(x))),
    "a leaky slope": lambda self, x: self.three(functional.leaky_relu(self.two(self.one(x)))),
    "flattened from the start": lambda self, x: self.three(self.two(self.one(x.flatten()))),
    "two outputs": lambda self, x: (self.three(self.two(self.one(x))), x),
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_a_straight_line_is_found_and_trains_as_the_module_does(name: str) -> None:
    torch.manual_seed(0)
    net = Net(STRAIGHT[name])
    assert stack_of(net, "cross_entropy") is not None
    opaque = Net(lambda self, x: STRAIGHT[name](self, x) * torch.ones(()))  # the same, and no straight line
    opaque.load_state_dict(net.state_dict())
    assert stack_of(opaque, "cross_entropy") is None
    rng = np.random.default_rng(0)
    examples = mn.Examples(rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 3, 40))
    data = mn.Federation(
        (mn.Client("a", examples), mn.Client("b", examples[:20])), mn.Schema(shape=(6,), classes=3), test=examples
    )
    local = mn.LocalSGD(lr=0.3, epochs=3, batch_size=7)
    runs = [
        mn.simulate(mn.Study(mn.FedAvg(mn.TorchModel(n, "cross_entropy", initial="given"), local), 3), data, workers=0)
        for n in (net, opaque)
    ]
    np.testing.assert_allclose(runs[0].state["model"], runs[1].state["model"], atol=1e-5)
    assert runs[0].probe[-1]["test"]["loss"] == pytest.approx(runs[1].probe[-1]["test"]["loss"], abs=1e-5)
    assert not np.array_equal(runs[0].state["model"], mn.TorchModel(net, "cross_entropy").init(repeatable(0, "init")))


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_no_straight_line_is_left_to_autograd(name: str) -> None:
    net = Net(OTHERWISE[name])
    assert stack_of(net, "cross_entropy") is None
    assert net.training


def test_weights_listed_in_another_order_are_left_to_autograd() -> None:
    assert traced(Net(STRAIGHT["functional"], backwards=True)) is None


def test_a_convolutional_forward_is_a_straight_line() -> None:
    class Digits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 4, 3), nn.Linear(36, 10)

        def forward(self, x):
            return self.two(functional.max_pool2d(functional.relu(self.one(x)), 2).flatten(1))

    layers = traced(Digits())
    assert layers is not None
    assert [type(layer).__name__ for layer in layers] == ["Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear"]
    ceiling = type(
        "Ceiling", (Digits,), {"forward": lambda s, x: s.two(functional.max_pool2d(s.one(x), 2, ceil_mode=True).flatten(1))}
    )
    assert traced(ceiling()) is None


def test_a_subclass_of_sequential_is_judged_by_what_it_does() -> None:
    layers = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)
    same = type("Same", (nn.Sequential,), {})(*layers)
    doubled = type("Doubled", (nn.Sequential,), {"forward": lambda self, x: 2 * nn.Sequential.forward(self, x)})(*layers)
    assert stack_of(same, "cross_entropy") is not None
    assert stack_of(doubled, "cross_entropy") is None
