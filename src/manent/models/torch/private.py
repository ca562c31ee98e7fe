"""Sums of the clipped gradients of single examples in torch, in one of two ways.

*Chains*: Linear, Conv2d, MaxPool2d, ReLU, Tanh, Sigmoid and Flatten one after another, with a named loss. They are computed by
`models.chain`, all rows together, and exactly: the result for a row does not depend on the others.

*All other networks*: one row after another. Each example goes through the network alone, in tensors of the same shapes, in one
thread, so that the library does the same operations in the same order for it, whatever else is in the batch.

| what a network does beside                          | what happens                                                        |
|-----------------------------------------------------|---------------------------------------------------------------------|
| mixes the rows of a batch, or keeps statistics      | Refused, naming the layer                                           |
| draws random numbers (Dropout, RReLU, `torch.rand`) | torch is seeded for each example by its bits and the key of the pass |
| changes parameters or buffers in a forward pass     | they are put back after each example                                |
| keeps anything else (see `models.torch.state`)      | Refused, naming module and attribute                                |
| draws from another global source of random numbers  | Refused, naming the source                                          |
| computes otherwise when an example comes again      | Refused: the first example is computed again at the end of a pass   |
| gives a gradient that is not finite                 | it adds nothing                                                     |
| fails for an example                                | it adds nothing, and its operator is warned; an example of zeros is |
|                                                     | tried: where that fails too, the error is raised                    |

So with random layers, too, an example's gradient is a function of that example, the weights and the key alone. The bound on what
one example changes holds for every key, so it would hold if the key were public. Two equal rows in a batch get equal masks. The
key is drawn anew for each pass, that is for each step.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from manent.core.errors import Refused
from manent.core.metrics import Task
from manent.core.training.dpsgd import clip_factors
from manent.core.vectors import Array
from manent.models import chain as exact
from manent.models.exact import Reals
from manent.models.torch.network import Network, explained, tensor
from manent.models.torch.random import seeded
from manent.models.torch.stack import hooked, pool_before_relu

Chain = Sequence[nn.Module]

_CURVES: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "logistic"}
_AXES: dict[type[nn.Module], int] = {nn.Linear: 2, nn.Conv2d: 4, nn.MaxPool2d: 4}


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

    def __init__(self, network: Network, loss: Callable[[Tensor, Tensor], Tensor], named: bool, kind: Task, classes: int) -> None:
        """`named`: whether the loss is one of the named ones, which are means over rows and do not mix them."""
        self.network, self.loss, self.kind = network, loss, kind
        self.size = len(network.weights)
        outputs = classes if kind == "multiclass" else 1
        self.chain = chain_of(network.module, outputs) if named else None
        self.random = network.random or not named or any(map(hooked, network.module.modules()))

    def sum(self, vector: Array, x: Array, y: Array, clip_norm: float) -> tuple[Array, float]:
        """float64[p], the sum of the rows' clipped gradients at `vector` [d]; and the sum of losses.

        Raises InvalidInput for data that the network rejects, and Refused for a network that carries anything from one example to
        the next.
        """
        self.network.load(vector)
        self.network.mode(training=True)
        with explained("training", x):
            if self.chain is not None and y.ndim == 1 and fits(self.chain, x):
                total = np.zeros(self.size)
                layers = self._layers(total)
                return total, exact.clipped_sum(layers, self.kind, x, y, clip_norm)
            key = int(torch.randint(2**63 - 1, ())) if self.random else 0
            with seeded(0), _one_thread():
                return self._alone(self.network.read(), x, y, clip_norm, key)

    def _alone(self, vector: Array, x: Array, y: Array, clip_norm: float, key: int) -> tuple[Array, float]:
        """The same, with each example by itself."""
        total, losses = torch.zeros(self.size, dtype=torch.float64), 0.0
        first: object = self  # no example yet
        sources = _sources()
        for row in [*range(len(x)), *([0] if len(x) else [])]:
            gradient, loss = self._gradient_or_zeros(vector, x[row : row + 1], y[row : row + 1], key)
            if row == 0:
                found = gradient.numpy().tobytes() if bool(torch.isfinite(gradient).all()) else None
                if first is not self:
                    self._refuse_change(thorough=True)
                    _refuse_other(sources, first, found)
                    break
                first = found
            losses += loss
            wide = gradient.double()
            # The same call on equal memory for each example, so the same bits.
            square = torch.dot(wide, wide).item()
            factor = float(clip_factors(np.array([square]), clip_norm)[0])
            if factor:
                total.add_(wide, alpha=factor)
        return total.numpy(), losses

    def _gradient_or_zeros(self, vector: Array, x: Array, y: Array, key: int) -> tuple[Tensor, float]:
        """As `_gradient`; zeros for an example that the network or the loss fails for, so that no other example's is lost by it.

        What was raised is raised for a network that fails for an example of zeros, too: that tells nothing of the data.
        """
        try:
            return self._gradient(vector, x, y, key)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - a study's own network may raise anything
            self._refuse_change(thorough=False)
            self.network.put(vector)
            try:
                self._gradient(vector, np.zeros_like(x), np.zeros_like(y), key)
            except Exception:  # noqa: BLE001 - as above
                raise error from None
            warnings.warn(f"The network failed for an example, which adds nothing: {type(error).__name__}: {error}", stacklevel=2)
            return torch.zeros(self.size), 0.0

    def _gradient(self, vector: Array, x: Array, y: Array, key: int) -> tuple[Tensor, float]:
        """float32[p], the gradient of one example, x [1, ...] and y [1, ...], and its loss. Leaves the network as it was."""
        network = self.network
        if self.random:
            bits = hashlib.blake2b(key.to_bytes(8, "little") + x.tobytes() + y.tobytes(), digest_size=8).digest()
            torch.default_generator.manual_seed(int.from_bytes(bits, "little") >> 1)
        with torch.enable_grad():
            loss = self.loss(network.module(_fresh(x)), _fresh(y))
            found = torch.autograd.grad(loss, network.parameters, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(network.parameters, found, strict=True)]
        gradient = torch.cat([part.detach().reshape(-1).float() for part in parts])
        self._refuse_change(thorough=False)
        network.put(vector)
        return gradient, loss.item()

    def _refuse_change(self, thorough: bool) -> None:
        changed = self.network.kept.changed(thorough)
        if changed is not None:
            raise Refused(
                f"{changed} while it computes, so an example would leave a trace in the gradients of the next: no gradient "
                f"belongs to one example. With DPSGD compute it anew in each pass, or register it as a buffer, which is put back."
            )

    def _layers(self, total: Array) -> list[exact.Layer]:
        """The chain as layers of `models.chain`, which add to views of `total`."""
        ends = np.cumsum([p.numel() for p in self.network.parameters])
        views = {
            id(p): (p.detach().numpy(), total[int(end) - p.numel() : int(end)].reshape(tuple(p.shape)))
            for p, end in zip(self.network.parameters, ends, strict=True)
        }
        layers: list[exact.Layer] = []
        for layer in self.chain or ():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                weight, added = views[id(layer.weight)]
                bias, added_bias = (None, None) if layer.bias is None else views[id(layer.bias)]
                if isinstance(layer, nn.Linear):
                    layers.append(exact.Dense(weight.T, bias, added.T, added_bias, _multiply))
                else:
                    padding = _pair(layer.padding)
                    layers.append(exact.Convolution(weight, bias, _pair(layer.stride), padding, (added, added_bias), _multiply))
            elif isinstance(layer, nn.MaxPool2d):
                layers.append(_MaxPool(layer))
            elif isinstance(layer, nn.Flatten):
                layers.append(exact.Flat())
            elif not isinstance(layer, nn.Identity):
                layers.append(exact.CURVES[_CURVES[type(layer)]]())
        return layers


def _multiply(a: Reals, b: Reals, out: Reals | None = None) -> Reals:
    """As `models.exact.multiply`, in as many threads as torch has: in a worker that is one."""
    into = None if out is None else torch.from_numpy(out)
    found: Reals = torch.matmul(tensor(a), tensor(b), out=into).numpy()
    return found


class _MaxPool:
    """Torch's own pooling: it selects numbers, and its backward pass adds slopes one after another, so both are exact.

    With channels last in memory it is ten times as fast.
    """

    def __init__(self, layer: nn.MaxPool2d) -> None:
        self.setting = [_pair(layer.kernel_size), _pair(layer.stride), (0, 0), (1, 1), False]

    def forward(self, x: Array) -> Array:
        self.x = tensor(x).contiguous(memory_format=torch.channels_last)
        y, self.where = torch.ops.aten.max_pool2d_with_indices(self.x, *self.setting)
        found: Array = y.numpy()
        return found

    def backward(self, slope: Array) -> Array:
        given = torch.from_numpy(slope).contiguous(memory_format=torch.channels_last)
        found: Array = torch.ops.aten.max_pool2d_with_indices_backward(given, self.x, *self.setting, self.where).numpy()
        return found

    def term(self, slope: Array) -> None:
        return None

    def stored(self) -> int:
        return 0


def _fresh(row: Array) -> Tensor:
    """One row in memory of its own, which begins on a cache line and has the same strides wherever the row lies in its batch."""
    return tensor(row).clone(memory_format=torch.contiguous_format)


def _refuse_other(sources: dict[str, object], first: object, again: object) -> None:
    """Raises Refused, at the end of a pass, where another source was drawn from, or the first example now gives other bits."""
    for name, state in _sources().items():
        if state != sources[name]:
            raise Refused(
                f"The network or its loss draws from the global generator of {name}, where each example's numbers depend on the "
                f"examples before it. With DPSGD draw with torch's default generator, which is seeded for each example."
            )
    if first != again:
        raise Refused(
            "The network gave an example another gradient when it came again in the same pass, so it carries something from one "
            "example to the next, or draws from a source that torch cannot seed: no gradient belongs to one example. With DPSGD "
            "compute everything from the input and the parameters, and draw with torch's default generator."
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread inside the block: threads bring nothing for one row, and how many there are may change the last bits."""
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)


def _sources() -> dict[str, object]:
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - only looked at
    return {"numpy.random": (kind, np.asarray(keys).tobytes(), *rest), "Python's random": random.getstate()}


def chain_of(network: nn.Module, outputs: int) -> list[nn.Module] | None:
    """The layers in order, if `models.chain` knows all, none has a hook, and every parameter is trained and used once; else None.

    `outputs` is how many scores a row must have.
    """
    layers = _flat(network)
    if layers is None:
        return None
    parameters = [p for layer in layers for p in layer.parameters()]
    linears = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    weighted = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not linears or linears[-1] != weighted[-1]:
        return None
    last = layers[linears[-1]]
    scores = isinstance(last, nn.Linear) and last.out_features == outputs
    once = len({id(p) for p in parameters}) == len(parameters)
    trained = all(p.requires_grad and p.dtype == torch.float32 for p in parameters)
    return pool_before_relu(layers) if scores and once and trained else None


def _flat(network: nn.Module) -> list[nn.Module] | None:
    if hooked(network):
        return None
    if type(network) is not nn.Sequential:
        return [network] if _known(network) else None
    parts = [_flat(child) for child in network]
    return None if any(part is None for part in parts) else [layer for part in parts if part for layer in part]


def _known(layer: nn.Module) -> bool:
    """Whether `models.chain` computes exactly this layer, as it is set."""
    if "forward" in layer.__dict__:
        return False
    match layer:
        case nn.Conv2d():
            plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
            return type(layer) is nn.Conv2d and plain and not isinstance(layer.padding, str)
        case nn.MaxPool2d():
            plain = not layer.return_indices and not layer.ceil_mode
            return type(layer) is nn.MaxPool2d and plain and _pair(layer.padding) == (0, 0) and _pair(layer.dilation) == (1, 1)
        case nn.Flatten():
            return type(layer) is nn.Flatten and layer.start_dim == 1 and layer.end_dim == -1
    return type(layer) in (nn.Linear, nn.Identity, *_CURVES)


def fits(chain: Chain, x: Array) -> bool:
    """Whether rows have the type and the axes that each layer needs to take the first axis for rows."""
    axes = x.ndim
    for layer in chain:
        if axes < 2 or axes != _AXES.get(type(layer), axes):
            return False
        axes = 2 if isinstance(layer, nn.Flatten) else axes
    return axes == 2 and x.dtype == np.float32


def _pair(value: object) -> tuple[int, int]:
    high, wide = value if isinstance(value, tuple) else (value, value)
    return int(high), int(wide)
