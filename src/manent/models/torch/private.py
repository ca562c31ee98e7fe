"""Sums of the clipped gradients of single examples in torch, in one of two ways.

*Chains*: layers one after another that treat each row by itself. One backward pass gives the slope at each layer's output. The
slope and the layer's input together are each example's gradient. For a linear layer the norm follows without the gradient, as
|a b'| = |a| |b| (Goodfellow 2015, "Efficient per-example gradient computations"). The weighted sum is one product of the same
inputs and slopes, without a second backward pass (Bu, Wang, Zha, Karypis 2023, "Differentially private optimization on large
model at small cost"). So for linear layers on vectors no example's gradient is ever stored; for the few parameters of other
layers it is.

*All other networks*: `vmap(grad)`, on as many rows at a time as memory allows; or one row after another where torch cannot do
that (recurrent layers). Each example goes through the network alone, so the network cannot mix examples.

Both keep the rules of `core.training.dpsgd.SUM_SLACK`.

| case                                                     | what happens                                          |
|----------------------------------------------------------|-------------------------------------------------------|
| BatchNorm, or statistics of batches                      | Refused, naming the layer                             |
| a layer that torch did not write, hooks, a shared weight | no chain; each example goes through the network alone |
| buffers that a forward pass changes                      | are reset, so no example leaves a trace in the next   |
| a gradient that is not finite                            | adds nothing                                          |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from manent.core.errors import Refused
from manent.core.training.dpsgd import clip_factors
from manent.core.vectors import Array
from manent.models.torch.network import Network, explained, tensor
from manent.models.torch.stack import hooked, pool_before_relu

STORED = 1 << 24  # the most numbers in the gradients that vmap stores at a time
CHAINED = 1 << 22  # the same for a chain, which keeps memory for them
ROWS = 512  # the most rows in one pass of a chain
ALONE = 64  # the most rows in one pass of vmap; more only take longer

# Layers without parameters that treat each row by itself.
_PLAIN = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Softsign, nn.Dropout, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)  # fmt: skip
_IMAGES = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_WEIGHTED = (nn.Linear, nn.Conv2d, nn.Embedding, nn.LayerNorm, nn.GroupNorm)


def refuse_mixing(network: nn.Module) -> None:
    """Raises Refused, naming the layer, where one mixes the examples of a batch or keeps statistics of them."""
    for name, module in network.named_modules():
        keeps = isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
        if keeps or isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise Refused(
                f"{name or 'The network'!r} is {type(module).__name__}, which mixes the examples of a batch: no gradient belongs "
                f"to one example. With DPSGD use GroupNorm or LayerNorm instead."
            )


class Clipped:
    """Computes the `clipped_gradient_sum` of one network; see `core.training.dpsgd.ClippedSum`."""

    def __init__(self, network: Network, loss: Callable[[Tensor, Tensor], Tensor], named: bool) -> None:
        """`named`: whether the loss is one of the named ones, which are means over rows and do not mix them."""
        self.network, self.loss = network, loss
        ends = np.cumsum([p.numel() for p in network.parameters])
        self.where = {id(p): slice(int(end) - p.numel(), int(end)) for p, end in zip(network.parameters, ends, strict=True)}
        self.size = len(network.weights)
        self.chain = chain_of(network.module) if named else None
        self.space = Space()
        self.together = True

    def sum(self, vector: Array, x: Array, y: Array, clip_norm: float) -> tuple[Array, float]:
        """float64[p], the sum of the rows' clipped gradients at `vector` [d]; and the sum of losses.

        Raises InvalidInput for data that the network rejects.
        """
        self.network.load(vector)
        self.network.mode(training=True)
        total, loss = torch.zeros(self.size, dtype=torch.float64), 0.0
        inputs, targets = tensor(x), tensor(y)
        with explained("training", x):
            rows = None if self.chain is None else rows_of(self.chain, inputs.dim())
            one_pass = self._alone if rows is None else self._chained
            rows = rows or max(1, min(ALONE, STORED // self.size))
            for start in range(0, len(x), rows):
                part = inputs[start : start + rows], targets[start : start + rows]
                squares, terms = torch.zeros(len(part[0]), dtype=torch.float64), []
                own, found = one_pass(*part)
                for term in found:
                    squares += term.squares()  # now, while the gradients are in the cache
                    terms.append(term)
                self._add(total, squares, terms, clip_norm)
                loss += own
        return total.numpy(), loss

    def _add(self, total: Tensor, squares: Tensor, terms: Sequence[Term], clip_norm: float) -> None:
        """Clips the examples' gradients by their squared norms, and adds them to the total."""
        factors = torch.from_numpy(clip_factors(squares.numpy(), clip_norm))
        kept = factors > 0
        if not kept.all():
            terms, factors = [term.rows(kept) for term in terms], factors[kept]
        for term in terms:
            term.add(factors, total[self.where[id(term.parameter)]])

    def _chained(self, x: Tensor, y: Tensor) -> tuple[float, Iterable[Term]]:
        """The sum of losses, and each parameter's gradients as terms, from one pass."""
        weighted: list[tuple[nn.Module, Tensor]] = []
        outputs: list[Tensor] = []
        with torch.enable_grad():
            flowing = x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
            before: nn.Module | None = None
            for layer in self.chain or ():
                if isinstance(layer, _WEIGHTED):
                    weighted.append((layer, flowing.detach()))
                    flowing = layer(flowing)
                    if not flowing.requires_grad:  # the first layers may be frozen
                        flowing.requires_grad_()
                    outputs.append(flowing)
                elif type(layer) is nn.ReLU and isinstance(before, nn.MaxPool2d | nn.AvgPool2d):
                    flowing = flowing.relu_()  # no one needs the output of the pool
                else:  # a layer in place must not change the outputs that are kept
                    flowing = layer(flowing.clone() if getattr(layer, "inplace", False) else flowing)
                before = layer
            loss = self.loss(flowing, y) * len(y)
            slopes = torch.autograd.grad(loss, outputs)
        layers = zip(weighted, slopes, strict=True)
        made = (_TERMS[type(layer)](layer, entered, slope, self.space) for (layer, entered), slope in layers)
        return loss.item(), (term for terms in made for term in terms if id(term.parameter) in self.where)

    def _alone(self, x: Tensor, y: Tensor) -> tuple[float, Iterable[Term]]:
        """The same, with each example by itself."""
        if self.together:
            try:
                return self._mapped(x, y)
            except RuntimeError:  # an operation that vmap does not know, or an error that is raised again below
                self.together = False
        network, losses, gradients = self.network, 0.0, []
        vector = network.read()
        for row in range(len(x)):
            network.load(vector)  # undoes what the last example did to buffers
            for parameter in network.parameters:
                parameter.grad = None
            with torch.enable_grad():
                loss = self.loss(network.module(x[row : row + 1]), y[row : row + 1])
                loss.backward()  # type: ignore[no-untyped-call]
            losses += loss.item()
            gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters])
        each = zip(network.parameters, zip(*gradients, strict=True), strict=True)
        return losses, [Stored(p, torch.stack(own).flatten(1).double()) for p, own in each]

    def _mapped(self, x: Tensor, y: Tensor) -> tuple[float, Iterable[Term]]:
        module = self.network.module
        parameters = {number: p.detach() for number, p in enumerate(self.network.parameters)}
        numbers = {id(p): number for number, p in enumerate(self.network.parameters)}
        # A weight that two modules share gets both names. If torch ties the weights itself, it loses the parameters of a module
        # that occurs twice.
        names = {
            f"{path}.{key}".removeprefix("."): numbers[id(p)]
            for path, part in module.named_modules()
            for key, p in part.named_parameters(recurse=False, remove_duplicate=False)
            if id(p) in numbers
        }
        # Copies, so that changes to buffers end with the pass.
        buffers = {name: b.detach().clone() for name, b in module.named_buffers()}

        def loss(parameters: dict[int, Tensor], one: Tensor, target: Tensor) -> Tensor:
            tensors = {name: parameters[number] for name, number in names.items()}
            scores = torch.func.functional_call(module, {**tensors, **buffers}, (one[None],), tie_weights=False)
            return self.loss(scores, target[None])

        each = torch.func.vmap(torch.func.grad_and_value(loss), in_dims=(None, 0, 0), randomness="different")
        with torch.enable_grad():
            gradients, losses = each(parameters, x, y)
        found = ((p, gradients[number]) for number, p in enumerate(self.network.parameters))
        return losses.detach().double().sum().item(), (Stored(p, g.detach().flatten(1).double()) for p, g in found)


@dataclass(frozen=True)
class Stored:
    """Gradients of one parameter, float64[n, size]. If `turned`, a convolution's are in the order [out, high, wide, in]."""

    parameter: Tensor
    gradients: Tensor
    turned: bool = False

    def squares(self) -> Tensor:
        """float64[n], the squared norm of each example's gradient."""
        return _squared(self.gradients)

    def rows(self, kept: Tensor) -> Stored:
        """The gradients of some examples; `kept` is bool[n]."""
        return Stored(self.parameter, self.gradients[kept], self.turned)

    def add(self, factors: Tensor, total: Tensor) -> None:
        """Adds each example's gradient times its factor [n] to total [size]."""
        added = factors @ self.gradients
        if self.turned:
            out, entering, high, wide = self.parameter.shape
            added = added.view(out, high, wide, entering).permute(0, 3, 1, 2).reshape(-1)
        total.add_(added)


@dataclass(frozen=True)
class Product:
    """Gradients of a matrix, each the outer product of a slope float64[n, out] and an input float64[n, in]."""

    parameter: Tensor
    slopes: Tensor
    inputs: Tensor

    def squares(self) -> Tensor:
        """float64[n], the squared norm of each example's gradient."""
        return _squared(self.slopes) * _squared(self.inputs)

    def rows(self, kept: Tensor) -> Product:
        """The gradients of some examples; `kept` is bool[n]."""
        return Product(self.parameter, self.slopes[kept], self.inputs[kept])

    def add(self, factors: Tensor, total: Tensor) -> None:
        """Adds each example's gradient times its factor [n] to total [size]."""
        total.view(self.parameter.shape).addmm_((self.slopes * factors[:, None]).t(), self.inputs)


@dataclass(frozen=True)
class Table:
    """Gradients of a table: a row float64[pairs, width] for each pair of an example and one of its indices; others are zero."""

    parameter: Tensor
    examples: int
    example: Tensor
    index: Tensor
    gradients: Tensor

    def squares(self) -> Tensor:
        """float64[n], the squared norm of each example's gradient."""
        return torch.zeros(self.examples, dtype=torch.float64).index_add_(0, self.example, _squared(self.gradients))

    def rows(self, kept: Tensor) -> Table:
        """The gradients of some examples; `kept` is bool[n]."""
        pairs, number = kept[self.example], torch.cumsum(kept, 0) - 1
        return Table(self.parameter, int(kept.sum()), number[self.example[pairs]], self.index[pairs], self.gradients[pairs])

    def add(self, factors: Tensor, total: Tensor) -> None:
        """Adds each example's gradient times its factor [n] to total [size]."""
        total.view(self.parameter.shape).index_add_(0, self.index, self.gradients * factors[self.example, None])


def _squared(rows: Tensor) -> Tensor:
    """float64[n], the squared norm of each row of [n, size]."""
    squares: Tensor = torch.linalg.vector_norm(rows, dim=1).square()
    return squares


Term = Stored | Product | Table


class Space:
    """Memory that is used again and again. Getting fresh memory would take longer than the computation in it."""

    def __init__(self) -> None:
        self._kept: dict[object, Tensor] = {}

    def empty(self, name: object, dtype: torch.dtype, *shape: int) -> Tensor:
        """A tensor of any content. The next call with the same name reuses its memory."""
        size = math.prod(shape)
        kept = self._kept.get(name)
        if kept is None or kept.numel() < size:
            kept = self._kept[name] = torch.empty(size, dtype=dtype)
        return kept[:size].view(shape)


def _linear(layer: nn.Linear, entered: Tensor, slope: Tensor, space: Space) -> list[Term]:
    if slope.dim() == 2:
        weight: Term = Product(layer.weight, slope.double(), entered.double())
    else:
        slope, entered = slope.flatten(1, -2), entered.flatten(1, -2)
        weight = Stored(layer.weight, torch.bmm(slope.transpose(1, 2), entered).flatten(1).double())
        slope = slope.sum(1)
    return [weight] if layer.bias is None else [weight, Stored(layer.bias, slope.double())]


def _convolution(layer: nn.Conv2d, entered: Tensor, slope: Tensor, space: Space) -> list[Term]:
    (high, wide), (down, right) = layer.kernel_size, layer.stride
    tall, broad = (int(v) for v in layer.padding)
    images = entered.permute(0, 2, 3, 1)
    if tall or broad:
        images = functional.pad(images, (0, 0, broad, broad, tall, tall))
    images = images.contiguous()
    windows = images.unfold(1, high, down).unfold(2, wide, right).permute(0, 1, 2, 4, 5, 3)  # [n, rows, columns, high, wide, in]
    rows, places, size = len(images), slope.shape[2] * slope.shape[3], high * wide * layer.in_channels
    flat = space.empty("windows", torch.float32, rows, places, size)
    flat.view(windows.shape).copy_(windows)
    out = slope.permute(0, 2, 3, 1).reshape(rows, places, -1)
    gradients = space.empty("gradients", torch.float32, rows, layer.out_channels, size)
    torch.bmm(out.transpose(1, 2), flat, out=gradients)
    stored = space.empty(id(layer), torch.float64, rows, layer.out_channels * size)
    stored.view(gradients.shape).copy_(gradients)
    weight = Stored(layer.weight, stored, turned=True)
    return [weight] if layer.bias is None else [weight, Stored(layer.bias, out.sum(1).double())]


def _embedding(layer: nn.Embedding, entered: Tensor, slope: Tensor, space: Space) -> list[Term]:
    count = layer.num_embeddings
    example = torch.arange(len(entered)).repeat_interleave(entered[0].numel())
    pairs, which = torch.unique(example * count + entered.reshape(-1), return_inverse=True)
    gradients = slope.new_zeros(len(pairs), layer.embedding_dim).index_add_(0, which, slope.reshape(-1, layer.embedding_dim))
    if layer.padding_idx is not None:
        gradients[pairs % count == layer.padding_idx] = 0
    return [Table(layer.weight, len(entered), pairs // count, pairs % count, gradients.double())]


def _layer_norm(layer: nn.LayerNorm, entered: Tensor, slope: Tensor, space: Space) -> list[Term]:
    shape = layer.normalized_shape
    normal = functional.layer_norm(entered, shape, eps=layer.eps)
    found = [(layer.weight, slope * normal), (layer.bias, slope)]
    # Summed over all places that share the parameter: the axes between the first and the last few.
    return [Stored(p, g.reshape(len(g), -1, p.numel()).sum(1).double()) for p, g in found if p is not None]


def _group_norm(layer: nn.GroupNorm, entered: Tensor, slope: Tensor, space: Space) -> list[Term]:
    normal = functional.group_norm(entered, layer.num_groups, eps=layer.eps)
    return [
        Stored(p, g.reshape(len(g), layer.num_channels, -1).sum(2).double())
        for p, g in ((layer.weight, slope * normal), (layer.bias, slope))
    ]


_TERMS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor, Space], list[Term]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
}


def chain_of(network: nn.Module) -> list[nn.Module] | None:
    """The layers in order, if all treat each row by itself, none has a hook and no parameter is used twice; else None."""
    layers = _flat(network)
    if layers is None or not any(isinstance(layer, _WEIGHTED) for layer in layers):
        return None
    parameters = [id(p) for layer in layers for p in layer.parameters()]
    return pool_before_relu(layers) if len(set(parameters)) == len(parameters) else None


def _flat(network: nn.Module) -> list[nn.Module] | None:
    if hooked(network):
        return None
    if type(network) is not nn.Sequential:
        return [network] if _known(network) else None
    parts = [_flat(child) for child in network]
    return None if any(part is None for part in parts) else [layer for part in parts if part for layer in part]


_SETTINGS: dict[type[nn.Module], dict[str, tuple[object, ...]]] = {
    nn.Conv2d: {"groups": (1,), "dilation": ((1, 1),), "padding_mode": ("zeros",)},
    nn.Embedding: {"max_norm": (None,), "scale_grad_by_freq": (False,)},
    nn.GroupNorm: {"affine": (True,)},
    nn.LayerNorm: {"elementwise_affine": (True,)},
    nn.Flatten: {"start_dim": (1,), "end_dim": (-1,)},
    nn.MaxPool2d: {"return_indices": (False,)},
}
"""The settings with which a layer's rule holds, for layers that have others."""


def _known(layer: nn.Module) -> bool:
    """Whether there is a rule for exactly this layer, as it is set."""
    if isinstance(layer, nn.Conv2d) and isinstance(layer.padding, str):
        return False
    settings = _SETTINGS.get(type(layer))
    if settings is None:
        return type(layer) in (*_PLAIN, nn.Linear)
    return all(getattr(layer, name) in values for name, values in settings.items())


def rows_of(chain: Sequence[nn.Module], axes: int) -> int | None:
    """The most rows in one pass, for inputs with so many axes; None where a layer would not take the first axis as rows."""
    stored = 0
    for layer in chain:
        minimum = 4 if isinstance(layer, _IMAGES) else 1 if isinstance(layer, nn.Embedding) else 2
        if axes < max(minimum, len(getattr(layer, "normalized_shape", ())) + 1):
            return None
        if isinstance(layer, nn.Conv2d) or (isinstance(layer, nn.Linear) and axes > 2):
            stored += layer.weight.numel()
        axes = axes + 1 if isinstance(layer, nn.Embedding) else 2 if isinstance(layer, nn.Flatten) else axes
    return max(min(16, STORED // max(stored, 1)), min(ROWS, CHAINED // max(stored, 1)), 1)
