"""Plain stacks of layers: a backward pass written by hand that takes the descent step too.

In a chain of linear layers, convolutions, ReLU, pooling and flattening, the update of a weight is one product in place,
W <- keep W + scale dY'X, and no gradient is ever stored. This saves autograd's bookkeeping and one pass over all parameters.
Images are kept in channels-last order, in which oneDNN's convolutions and pooling are several times faster on a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manent.models.torch.trace import traced

_aten = torch.ops.aten
_nll, _nll_slope = _aten.nll_loss_forward.default, _aten.nll_loss_backward.default
_relu_slope = _aten.threshold_backward.default
Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Stage:
    """One layer of a stack. `forward` may keep what `backward` and `change` need."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        raise NotImplementedError

    def backward(self, slope: Tensor, deeper: bool) -> Tensor:
        """The slope at the input, from the slope at the output. Any tensor where no layer with weights lies `deeper`."""
        raise NotImplementedError

    def change(self, slope: Tensor, targets: list[Tensor], keep: float, scale: float) -> None:
        """For each weight of the layer: target <- keep * target + scale * gradient."""


class _Linear(Stage):
    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        self.turned = self.weight.t()

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        return torch.mm(x, self.turned) if self.bias is None else torch.addmm(self.bias, x, self.turned)

    def backward(self, slope: Tensor, deeper: bool) -> Tensor:
        return torch.mm(slope, self.weight) if deeper else slope

    def change(self, slope: Tensor, targets: list[Tensor], keep: float, scale: float) -> None:
        turned = slope.t()
        targets[0].addmm_(turned, self.x, beta=keep, alpha=scale)
        if self.bias is not None:
            targets[1].addmv_(turned, _ones(slope.shape[0]), beta=keep, alpha=scale)


class _Conv2d(Stage):
    def __init__(self, layer: nn.Conv2d) -> None:
        self.weight, self.bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        self.stride, self.padding, self.dilation = _pair(layer.stride), _pair(layer.padding), _pair(layer.dilation)
        self.groups, self.biases = layer.groups, None if layer.bias is None else [layer.out_channels]

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        return torch.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def backward(self, slope: Tensor, deeper: bool) -> Tensor:
        wanted = [deeper, True, self.bias is not None]
        inner, *self.gradients = _aten.convolution_backward(
            slope, self.x, self.weight, self.biases, self.stride, self.padding, self.dilation, False, [0, 0], self.groups, wanted
        )
        return inner if deeper else slope

    def change(self, slope: Tensor, targets: list[Tensor], keep: float, scale: float) -> None:
        for target, gradient in zip(targets, self.gradients, strict=False):
            if keep == 0:
                torch.mul(gradient, scale, out=target)
            else:
                (target if keep == 1 else target.mul_(keep)).add_(gradient, alpha=scale)


class _ReLU(Stage):
    def __init__(self, in_place: bool) -> None:
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        self.y = x.relu_() if self.in_place else x.relu()
        return self.y

    def backward(self, slope: Tensor, deeper: bool) -> Tensor:
        turned: Tensor = _relu_slope(slope, self.y, 0)
        return turned


class _MaxPool2d(Stage):
    def __init__(self, layer: nn.MaxPool2d) -> None:
        self.setting = [_pair(v) for v in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)] + [layer.ceil_mode]

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        y: Tensor
        y, self.where = _aten.max_pool2d_with_indices(x, *self.setting)
        return y

    def backward(self, slope: Tensor, deeper: bool) -> Tensor:
        inner: Tensor = _aten.max_pool2d_with_indices_backward(slope, self.x, *self.setting, self.where)
        return inner


class _AvgPool2d(Stage):
    def __init__(self, layer: nn.AvgPool2d) -> None:
        self.setting: list[Any] = [_pair(v) for v in (layer.kernel_size, layer.stride, layer.padding)]
        self.setting += [layer.ceil_mode, layer.count_include_pad, layer.divisor_override]

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        y: Tensor = _aten.avg_pool2d(x, *self.setting)
        return y

    def backward(self, slope: Tensor, deeper: bool) -> Tensor:
        inner: Tensor = _aten.avg_pool2d_backward(slope, self.x, *self.setting)
        return inner


class _Flatten(Stage):
    def forward(self, x: Tensor) -> Tensor:
        self.shape = x.shape
        return x.flatten(1)

    def backward(self, slope: Tensor, deeper: bool) -> Tensor:
        inner = slope.view(self.shape)
        return inner.contiguous(memory_format=torch.channels_last) if inner.dim() == 4 else inner


class _Images(Stage):
    """Puts the input into channels-last order. `to` also sets the strides of a single channel; `contiguous` does not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(memory_format=torch.channels_last)

    def backward(self, slope: Tensor, deeper: bool) -> Tensor:
        return slope


@functools.lru_cache(64)
def _ones(*shape: int) -> Tensor:
    """A tensor of ones, kept: making it anew takes as long as summing the gradients of a small layer."""
    return torch.ones(shape)


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, tuple) else [value, value]


def cross_entropy(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of logits [n, classes], and its derivative by them."""
    logs = scores.log_softmax(1)
    loss, weight = _nll(logs, y, None, 1, -100)
    slope = _nll_slope(_ones(), logs, y, None, 1, -100, weight)
    return loss, torch._log_softmax_backward_data(slope, logs, 1, scores.dtype)


def binary_cross_entropy(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean binary cross-entropy of logits [n, 1], and its derivative by them."""
    target = y[:, None].to(scores.dtype)
    loss = torch.binary_cross_entropy_with_logits(scores, target, reduction=1)
    return loss, scores.sigmoid().sub_(target).mul_(1 / y.shape[0])


def mse(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean squared error of predictions [n, 1], and its derivative by them."""
    error = scores - y[:, None]
    return error.square().mean(), error.mul_(2 / y.shape[0])


SLOPES: dict[str, Slope] = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy, "mse": mse}


class Stack:
    """Stages one after another, and a loss with its slope. The stages use the weights of the module they were made from."""

    def __init__(self, stages: Sequence[Stage], counts: Sequence[int], rank: int | None, slope: Slope) -> None:
        self.stages, self.rank, self.slope = stages, rank, slope
        self.first = next((i for i, count in enumerate(counts) if count), len(counts))
        ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        self.where = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]

    def fits(self, x: Tensor) -> bool:
        """Whether inputs have the type and the number of axes that the stages need."""
        return x.dtype == torch.float32 and (x.dim() == self.rank if self.rank else x.dim() >= 2)

    def scores(self, x: Tensor) -> Tensor:
        """The last stage's output for inputs [n, ...]."""
        for stage in self.stages:
            x = stage.forward(x)
        return x

    def backward(self, x: Tensor, y: Tensor, targets: list[Tensor], keep: float, scale: float) -> Tensor:
        """For each weight: target <- keep * target + scale * gradient of the mean loss. Returns the loss.

        The targets may be the weights themselves, because a weight changes only after the slope has passed its layer.
        """
        loss, slope = self.slope(self.scores(x), y)
        for index in range(len(self.stages) - 1, self.first - 1, -1):
            inner = self.stages[index].backward(slope, index > self.first)
            self.stages[index].change(slope, targets[self.where[index]], keep, scale)
            slope = inner
        return loss


def stack_of(network: nn.Module, loss: object) -> Stack | None:
    """The network as a stack that shares its weights; None where it is not a chain of the known layers with a named loss."""
    if not isinstance(loss, str) or loss not in SLOPES:
        return None
    layers = _chain(network) or _traced(network)
    if not layers or not isinstance(layers[-1], nn.Linear) or (loss != "cross_entropy" and layers[-1].out_features != 1):
        return None
    stages: list[Stage] = []
    counts: list[int] = []
    rank: int | None = None  # axes of what flows, None while it is still the input's own
    needed: int | None = None
    for layer in pool_before_relu(layers):
        wants = {nn.Linear: 2, nn.Conv2d: 4, nn.MaxPool2d: 4, nn.AvgPool2d: 4}.get(type(layer))
        if wants is not None and rank is None:
            rank = needed = wants
            if wants == 4:
                stages.append(_Images())
                counts.append(0)
        if wants not in (None, rank):
            return None
        stages.append(_stage(layer, in_place=any(counts)))
        counts.append(len(list(layer.parameters())))
        rank = 2 if isinstance(layer, nn.Flatten) else rank
    return Stack(stages, counts, needed, SLOPES[loss])


def _stage(layer: nn.Module, in_place: bool) -> Stage:
    match layer:
        case nn.Linear():
            return _Linear(layer)
        case nn.Conv2d():
            return _Conv2d(layer)
        case nn.MaxPool2d():
            return _MaxPool2d(layer)
        case nn.AvgPool2d():
            return _AvgPool2d(layer)
        case nn.ReLU():
            # In place only after a layer with weights: before, the values may be the client's own data.
            return _ReLU(in_place)
    return _Flatten()


def _chain(network: nn.Module) -> list[nn.Module] | None:
    """The layers in order; None where one is not known here, has a hook or a frozen weight, or occurs twice."""
    if hooked(network):
        return None
    if type(network) is nn.Sequential:
        layers: list[nn.Module] = []
        for child in network:
            part = _chain(child)
            if part is None:
                return None
            layers += part
        weights = [id(p) for layer in layers for p in layer.parameters()]
        return layers if len(set(weights)) == len(weights) else None
    return [network] if _known(network) else None


def _traced(network: nn.Module) -> list[nn.Module] | None:
    """The same for a module with a `forward` of its own."""
    if hooked(network):
        return None
    layers = traced(network) or []
    return layers if layers and all(_known(layer) and not hooked(layer) for layer in layers) else None


def _known(layer: nn.Module) -> bool:
    if any(not p.requires_grad or p.dtype != torch.float32 for p in layer.parameters()):
        return False
    match layer:
        case nn.Conv2d():
            return type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        case nn.MaxPool2d():
            return type(layer) is nn.MaxPool2d and not layer.return_indices
        case nn.Flatten():
            return type(layer) is nn.Flatten and layer.start_dim == 1 and layer.end_dim == -1
    return type(layer) in (nn.Linear, nn.ReLU, nn.AvgPool2d)


def hooked(layer: nn.Module) -> bool:
    """Whether a layer has hooks, which a pass written by hand would not call."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(layer, kind, None) for kind in kinds)


def pool_before_relu(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers, with each ReLU behind the max-pooling that follows it: the result is the same, and ReLU has less to do."""
    ordered = list(layers)
    for i in range(len(ordered) - 1):
        if isinstance(ordered[i], nn.ReLU) and isinstance(ordered[i + 1], nn.MaxPool2d):
            ordered[i], ordered[i + 1] = ordered[i + 1], ordered[i]
    return ordered
