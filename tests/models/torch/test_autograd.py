"""Modules that only autograd can train, whose large Linears are hidden from it: equal to torch's own optimiser, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import manent as mn
from manent.core.training import LocalTraining
from manent.models.torch import network as torch_network
from manent.models.torch.network import Autograd

WIDTH = 128  # a square Linear has 2**14 weights


class Base(nn.Module):
    """A table, then large Linears, used as subclasses say."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 3)


class Once(Base):
    def forward(self, x):
        return self.out(self.two(self.one(x).clamp(min=0)).clamp(min=0))


class Twice(Base):
    def forward(self, x):
        return self.out(self.one(self.one(x).tanh()).tanh())  # and `two` not at all


class Tied(Base):
    def forward(self, x):
        return self.out(functional.linear(self.one(x).tanh(), self.one.weight.T).tanh())


class Shared(Base):
    def __init__(self) -> None:
        super().__init__()
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.out(self.two(self.one(x).tanh()).tanh())


class Frozen(Base):
    def __init__(self) -> None:
        super().__init__()
        self.one.weight.requires_grad_(False)
        self.two.bias.requires_grad_(False)

    def forward(self, x):
        return self.out(self.two(self.one(x).tanh()).tanh())


class WithoutBias(Base):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return self.out(self.two(self.one(x).tanh()).tanh())


class Positions(Base):
    """Inputs of more than two dimensions, some of them expanded or turned."""

    def forward(self, x):
        several = self.one(x[:, None, :].expand(-1, 4, -1)).tanh()
        return self.out(self.two(several.transpose(0, 1)).tanh().mean(0))


class InPlace(Base):
    def forward(self, x):
        return self.out(functional.relu_(self.two(functional.relu_(self.one(x)))))


class Again(Base):
    """What is computed once more in the backward pass."""

    def forward(self, x):
        hidden = torch.utils.checkpoint.checkpoint(self.one, x, use_reentrant=False)
        return self.out(self.two(hidden.tanh()).tanh())


class AgainDeep(Base):
    """Likewise with large Linears within, whose forward is called in the backward pass."""

    def forward(self, x):
        def inner(x):
            return self.two(self.one(x).tanh()).tanh()

        return self.out(torch.utils.checkpoint.checkpoint(inner, x, use_reentrant=False))


class Detached(Base):
    def forward(self, x):
        with torch.no_grad():
            aside = self.one(x)
        return self.out(self.two(x + aside).tanh() + self.two(x).detach())


class Mapped(Base):
    def forward(self, x):
        return self.out(torch.func.vmap(self.one)(x).tanh())


class Normed(Base):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.utils.parametrizations.weight_norm(self.one)

    def forward(self, x):
        return self.out(self.one(x).tanh())


class Hooked(Base):
    def __init__(self) -> None:
        super().__init__()
        self.one.register_forward_hook(lambda module, inputs, output: output * 2)

    def forward(self, x):
        return self.out(self.one.forward(x).tanh() + self.one(x).tanh())


KINDS = (Once, Twice, Tied, Shared, Frozen, WithoutBias, Positions, InPlace, Again, AgainDeep, Detached, Mapped, Normed, Hooked)
LOCALS = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "momentum": {"momentum": 0.9},
    "clipped": {"max_grad_norm": 0.5},
}


def federation(rows: int = 40) -> mn.Federation:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    return mn.data.from_arrays(x, (np.abs(x[:, :3]).argmax(1)).astype(np.int64), clients=2)


def by_torch(module: nn.Module, client, local: mn.LocalSGD, batches) -> dict[str, np.ndarray]:
    """The same steps by torch.optim.SGD and nothing else."""
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, local.lr, momentum=local.momentum, weight_decay=local.weight_decay)
    x, y = torch.from_numpy(client.train.x), torch.from_numpy(client.train.y)
    for batch in batches:
        for parameter in trained:  # of what no output needs, the gradient is zero, and its decay is not left out
            parameter.grad = torch.zeros_like(parameter)
        functional.cross_entropy(module(x[batch]), y[batch]).backward()
        if local.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(trained, local.max_grad_norm)
        optimizer.step()
    return {name: p.detach().numpy() for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("rule", LOCALS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_it_trains_as_torch_does(kind, rule):
    torch.manual_seed(3)
    module, client = kind(), federation().clients[0]
    local = mn.LocalSGD(lr=0.2, epochs=2, batch_size=7, **LOCALS[rule])
    model = mn.TorchModel(module, "cross_entropy", initial="given")
    model._network.stack = None
    batches = local.batches(len(client.train), np.random.default_rng(1))
    start = model.layout.flatten({name: p.detach().numpy() for name, p in module.named_parameters() if p.requires_grad})
    work = LocalTraining(start=start, batches=batches, local=local, lr=local.lr, seed=1)
    (found,) = model.train([work], [client.train])
    expected = model.layout.flatten(by_torch(module, client, local, batches))
    assert not np.allclose(found.vector, start, atol=1e-3)
    np.testing.assert_allclose(found.vector, expected, rtol=2e-4, atol=2e-6)


def test_large_linears_are_hidden_and_shown_again():
    module = Once()
    autograd = Autograd(module, list(module.parameters()), functional.cross_entropy)
    assert [linear for linear, _ in autograd.linears] == [module.one, module.two]
    x, y = torch.randn(5, WIDTH), torch.tensor([0, 1, 2, 0, 1])
    targets = [torch.zeros_like(p) for p in module.parameters()]
    autograd.backward(x, y, targets, 0.0, 1.0)
    assert "forward" not in vars(module.one)
    assert not autograd.uses
    functional.cross_entropy(module(x), y).backward()
    for target, parameter in zip(targets, module.parameters(), strict=True):
        torch.testing.assert_close(target, parameter.grad)


class Spoilt(Base):
    """Changes what a gradient needs, which autograd finds out."""

    def forward(self, x):
        x = x.clone()
        hidden = self.one(x)
        x.add_(1)
        return self.out(self.two(hidden).tanh())


@pytest.mark.parametrize("hidden", [True, False])
def test_an_input_that_was_changed_is_found_out(monkeypatch, hidden):
    monkeypatch.setattr(torch_network, "LARGE", 1 << 14 if hidden else 1 << 30)
    model, client = mn.TorchModel(Spoilt(), "cross_entropy"), federation().clients[0]
    study = mn.Study(mn.FedAvg(model, mn.LocalSGD(lr=0.1, steps=1, batch_size=4)), rounds=1)
    assert client.train.x.shape[1] == WIDTH
    with pytest.raises((mn.InvalidInput, mn.ClientFailed), match="inplace operation"):
        mn.simulate(study, federation(), workers=0)
