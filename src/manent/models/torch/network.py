"""A working copy of a torch module. Its parameters and the statistics of its layers are views of one flat vector."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from manent.core.errors import InvalidInput
from manent.core.vectors import Array, Block, Entry, Layout, Vector
from manent.models.torch.stack import stack_of
from manent.models.torch.state import Kept

Loss = Callable[[Tensor, Tensor], Tensor]
_run_backward = torch.autograd.Variable._execution_engine.run_backward

# Modules of torch.nn that draw random numbers in training.
_RANDOM = ("Dropout", "AlphaDropout", "FeatureAlphaDropout", "RReLU", "FractionalMaxPool")


class Pass(Protocol):
    """One forward and backward pass over a batch."""

    def scores(self, x: Tensor) -> Tensor:
        """The network's output for inputs [n, ...]."""
        ...

    def backward(self, x: Tensor, y: Tensor, targets: list[Tensor], keep: float, scale: float) -> Tensor:
        """For each parameter: target <- keep * target + scale * gradient of the mean loss. Returns the loss."""
        ...


LARGE = 1 << 14
"""From so many weights on, a Linear is faster if its gradient is never stored."""


class Autograd:
    """The pass of any module. It takes over the gradients that autograd makes, so none is zeroed, copied or stored.

    The weight of a large Linear is hidden from autograd while the module computes. After the pass, the product that is its
    gradient is added to the target in one operation, so that it is never stored. Autograd does the rest of that layer.
    """

    def __init__(self, module: nn.Module, parameters: Sequence[nn.Parameter], loss: Loss) -> None:
        self.module, self.parameters, self.loss = module, tuple(parameters), loss
        self.one = torch.ones((), device=self.parameters[0].device)
        self.uses: list[_Use] = []
        places = {id(p): index for index, p in enumerate(self.parameters)}
        self.linears = [(m, _Hidden(m, places[id(m.weight)], self.uses)) for m in module.modules() if _is_large(m, places)]

    def scores(self, x: Tensor) -> Tensor:
        """The module's output for inputs [n, ...]."""
        scores: Tensor = self.module(x)
        return scores

    def backward(self, x: Tensor, y: Tensor, targets: list[Tensor], keep: float, scale: float) -> Tensor:
        """For each parameter: target <- keep * target + scale * gradient of the mean loss. Returns the loss."""
        for linear, hidden in self.linears:
            linear.__dict__["forward"] = hidden
        try:
            loss = self.loss(self.module(x), y)
            uses = tuple(self.uses)  # the backward pass may compute parts of the module again, and so add to the list
            wanted = (*self.parameters, *[use.output for use in uses])
            # torch.autograd.grad calls this after checks that take as long as a small layer.
            found = _run_backward((loss,), (self.one,), False, False, wanted, allow_unreachable=True, accumulate_grad=False)
            if keep == 0:
                torch._foreach_zero_(targets)
            elif keep != 1:
                torch._foreach_mul_(targets, keep)
            reached = [(target, g) for target, g in zip(targets, found, strict=False) if g is not None]
            if reached:
                torch._foreach_add_(*map(list, zip(*reached, strict=True)), alpha=scale)
            for use, gradient in zip(uses, found[len(self.parameters) :], strict=True):
                if gradient is not None:
                    use.add_to(targets[use.index], gradient, scale)
        finally:
            self.uses.clear()
            for linear, _ in self.linears:
                del linear.__dict__["forward"]
        return loss.detach()


@dataclass(frozen=True, slots=True)
class _Use:
    """One use of a hidden weight: the layer's input, and the place at which autograd gives the gradient of its output."""

    index: int
    x: Tensor
    version: int
    output: GradientEdge

    def add_to(self, target: Tensor, gradient: Tensor, scale: float) -> None:
        x = self.x
        if x._version != self.version:
            raise RuntimeError("the input of a Linear, which its gradient needs, has been modified by an inplace operation")
        if x.dim() != 2:
            x, gradient = x.reshape(-1, target.shape[1]), gradient.reshape(-1, target.shape[0])
        if not x.dtype is gradient.dtype is target.dtype:
            x, gradient = x.to(target.dtype), gradient.to(target.dtype)
        target.addmm_(gradient.t(), x, alpha=scale)


class _Hidden:
    """The forward function of a Linear whose weight autograd does not see."""

    def __init__(self, linear: nn.Linear, index: int, uses: list[_Use]) -> None:
        self.linear, self.index, self.uses = linear, index, uses

    def __call__(self, x: Tensor) -> Tensor:
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            return nn.functional.linear(x, self.linear.weight, self.linear.bias)
        y = nn.functional.linear(x, self.linear.weight.detach(), self.linear.bias)
        if y.grad_fn is not None:
            self.uses.append(_Use(self.index, x.detach(), x._version, GradientEdge(y.grad_fn, y.output_nr)))
        return y


def _is_large(module: nn.Module, places: Mapping[int, int]) -> TypeGuard[nn.Linear]:
    """Whether this is torch's own Linear with many weights and a bias, all trained. Autograd reaches its output by the bias."""
    if type(module) is not nn.Linear:
        return False
    trained = all(id(module._parameters.get(name)) in places for name in ("weight", "bias"))
    return trained and module.weight.numel() >= LARGE


class Network:
    """A private copy of a module, bound to `vector`, float32[d], laid out as `layout_of(module)`.

    It serves one process and one thread at a time. Each `load` resets the buffers that are not in the vector, and the attributes
    of every module: whatever a `forward` keeps there ends with the client, so results do not depend on who trains whom.
    """

    def __init__(self, module: nn.Module, loss: str | Loss, loss_function: Loss, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.module = copy.deepcopy(module).train().to(self.device)
        layout = layout_of(self.module)
        self.vector = torch.zeros(layout.size, device=self.device)  # torch aligns it to cache lines, numpy does not
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        views = [self.vector[where].view(shape) for where, shape in layout._entries.values()]
        self.views = views[: len(self.parameters)]
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.data = view
        self.weights = self.vector[: layout.slice("parameters").stop]
        self.statistics = [
            (*_owner(self.module, n), v) for n, v in zip(_statistics(self.module), views[len(self.views) :], strict=True)
        ]
        for owner, key, view in self.statistics:
            owner._buffers[key] = view
        self.locals = [(*_owner(self.module, name), buffer.clone()) for name, buffer in local_buffers(self.module).items()]
        self.loss = loss_function
        self.autograd = Autograd(self.module, self.parameters, loss_function)
        self.stack = stack_of(self.module, loss) if self.device.type == "cpu" else None
        self.random = any(_draws(m) for m in self.module.modules())
        self._gradient: tuple[Tensor, list[Tensor]] | None = None
        self.kept = Kept(self.module, loss)

    def load(self, vector: Array) -> None:
        """Gives the module the weights and statistics of this vector [d]. All else that it keeps is as it was given."""
        self.kept.restore()
        self.put(vector)

    def put(self, vector: Array) -> None:
        """Gives the module the weights and statistics of this vector [d], and resets its other buffers."""
        self._rebind()
        self.vector.copy_(tensor(vector))
        for owner, key, first in self.locals:
            owner._buffers[key] = first.clone()

    def read(self) -> Vector:
        """float32[d], a copy of the module's vector."""
        self._rebind()
        vector: Vector = self.vector.cpu().numpy()
        return vector.copy() if self.device.type == "cpu" else vector

    def tensor(self, array: Array) -> Tensor:
        """The array on the network's device. On a CPU it shares the array's memory, so do not write to it."""
        return tensor(array).to(self.device)

    def less(self, start: Vector) -> Vector:
        """float32[d], the module's vector minus `start`."""
        self._rebind()
        update: Vector = np.subtract(self.vector.cpu().numpy(), start)
        return update

    def _rebind(self) -> None:
        """Copies each statistic back to its view, for modules that replace a buffer instead of changing it."""
        for owner, key, view in self.statistics:
            current = owner._buffers[key]
            if current is not None and current is not view:
                view.copy_(current.detach())
                owner._buffers[key] = view

    def mode(self, training: bool) -> None:
        """Switches the module to training or evaluation."""
        if self.module.training is not training:
            self.module.train(training)

    def through(self, x: Tensor, y: Array | None = None) -> Pass:
        """The fastest pass that fits data of this shape."""
        if self.stack is not None and self.stack.fits(x) and (y is None or y.ndim == 1):
            return self.stack
        return self.autograd

    @property
    def gradient(self) -> tuple[Tensor, list[Tensor]]:
        """A buffer float32[p] for a gradient, and its views in the parameters' shapes."""
        if self._gradient is None:
            flat = torch.zeros_like(self.weights)
            pieces = flat.split_with_sizes([v.numel() for v in self.views])
            self._gradient = flat, [piece.view(v.shape) for piece, v in zip(pieces, self.views, strict=True)]
        return self._gradient


def layout_of(module: nn.Module) -> Layout:
    """Block "parameters", the trainable ones in order, and block "statistics", the persistent floating buffers, if any."""
    trained = tuple(Entry(n, tuple(p.shape)) for n, p in module.named_parameters() if p.requires_grad)
    kept = tuple(Entry(n, tuple(b.shape)) for n, b in _statistics(module).items())
    return Layout((Block("parameters", trained), *((Block("statistics", kept),) if kept else ())))


def _statistics(module: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, buffer in module.named_buffers():
        owner, key = _owner(module, name)
        if buffer.is_floating_point() and key not in owner._non_persistent_buffers_set:
            found[name] = buffer
    return found


def local_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that are not in the vector, by name."""
    shared = _statistics(module)
    return {name: buffer for name, buffer in module.named_buffers() if name not in shared}


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, key = name.rpartition(".")
    return module.get_submodule(path), key


def _draws(module: nn.Module) -> bool:
    """Whether a module may draw random numbers in training. Any module that is not torch's own may."""
    if not type(module).__module__.startswith("torch.nn.modules."):
        return True
    dropout = getattr(module, "dropout", 0.0)
    return type(module).__name__.startswith(_RANDOM) or (isinstance(dropout, float) and dropout > 0)


@contextmanager
def explained(kind: str, x: Array) -> Iterator[None]:
    """Turns torch's errors about shapes, types and batches inside the block into InvalidInput."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if "more than 1 value per channel" in str(error):
            raise InvalidInput(
                "BatchNorm cannot train on a batch of one row, and the data leave such a batch. Choose another batch_size, "
                "or use GroupNorm or LayerNorm."
            ) from error
        raise InvalidInput(
            f"The network or its loss fails on {kind} data x {x.dtype}[{', '.join(map(str, x.shape))}]: {error}. "
            f"Change the network to fit the data, or the data to fit the network."
        ) from error


def tensor(array: Array) -> Tensor:
    """A tensor over the array's memory, or over a copy where torch cannot read it in place. Do not write to it."""
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    if not array.flags.writeable:
        # torch warns of memory that is read-only. Nothing here writes to it, so a second view avoids the warning.
        array = np.asarray(_Memory(array))
    return torch.from_numpy(array)


class _Memory:
    def __init__(self, array: Array) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}
