"""Any torch module as a model."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from manent.core import validate
from manent.core.canonical import code_hash, to_plain, type_name
from manent.core.errors import InvalidInput, MissingExtra
from manent.core.examples import Examples
from manent.core.metrics import Scored, Task
from manent.core.training import LocalTraining, Trained, descend_privately
from manent.core.vectors import Array, Layout, Vector
from manent.models.checks import check_numbers, check_rows, check_targets

try:
    import torch
    from torch import Tensor, nn
except ImportError:  # pragma: no cover
    raise MissingExtra("torch", "torch", "TorchModel") from None

from manent.models.torch.batched import Batched
from manent.models.torch.network import Network, explained, layout_of, local_buffers, tensor
from manent.models.torch.private import Clipped, refuse_mixing
from manent.models.torch.random import seeded
from manent.models.torch.training import train

ROWS = 512  # rows in one pass, where only a sum over the rows is needed


def _cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    if y.ndim > 1:
        scores, y = scores.reshape(-1, scores.shape[-1]), y.reshape(-1)
    return nn.functional.cross_entropy(scores, y)


def _binary_cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(scores, y.to(scores.dtype))


def _mse(scores: Tensor, y: Tensor) -> Tensor:
    return nn.functional.mse_loss(scores, y)


_LOSSES: dict[str, tuple[Task, Callable[[Tensor, Tensor], Tensor]]] = {
    "cross_entropy": ("multiclass", _cross_entropy),
    "binary_cross_entropy": ("binary", _binary_cross_entropy),
    "mse": ("regression", _mse),
}


@dataclass(frozen=True, eq=False)
class TorchModel:
    """A torch module with a loss. The given module is copied, and never changed.

    | tensor of the module                                                         | where it is                       |
    |------------------------------------------------------------------------------|-----------------------------------|
    | trainable parameters, in order                                               | in the vector, block "parameters" |
    | persistent floating buffers, such as the running mean of BatchNorm           | in the vector, block "statistics" |
    | frozen parameters (`requires_grad=False`), integer or non-persistent buffers | not in the vector                 |

    Every training begins with the tensors that are not in the vector as they were given. Their hash is part of the study. What
    modules keep in attributes begins as it was given, too; private training refuses a module that changes any of it while it
    computes (`models.torch.state`).

    A chain of Linear, Conv2d, ReLU, MaxPool2d, AvgPool2d and Flatten (`nn.Sequential`) trains without autograd.
    A model object serves one process and one thread at a time. After a fork each process has its own.

    Attributes:
        network: an nn.Module that gives logits [n] or [n, 1] (binary), logits [n, classes] or [n, length, classes] (multiclass),
            or predictions [n] or [n, 1] (regression).
        loss: "cross_entropy", "binary_cross_entropy" (of logits) or "mse"; or a function of (scores, y) that gives the mean loss
            as a scalar tensor. Scores [n, 1] reach it as [n].
        kind: "multiclass", "binary" or "regression". It follows from a named loss.
        classes: the number of classes of a multiclass model. Where not given, the outputs of the last nn.Linear are counted.
        initial: "seed" draws the first weights by each submodule's `reset_parameters`; "given" takes those of the network.
        device: where it computes, "cpu" or "cuda". Private training is always on the CPU. Not part of the study.
        together: how many clients train in one batched program (see `models.torch.batched`): by default 32 on a GPU and 1 on a
            CPU. With more than 1, a simulation works in one process, and results agree up to rounding. Not part of the study.

    Raises InvalidInput for a network that cannot be copied, has no trainable parameter, or cannot be drawn anew, for "cuda" where
    torch finds no GPU, and where loss, kind and classes do not fit together.
    """

    network: nn.Module
    loss: str | Callable[[Tensor, Tensor], Tensor]
    kind: Task = None  # type: ignore[assignment]  # resolved below
    classes: int = None  # type: ignore[assignment]  # resolved below
    initial: Literal["seed", "given"] = "seed"
    device: Literal["cpu", "cuda"] = "cpu"
    together: int = None  # type: ignore[assignment]  # resolved below

    def __post_init__(self) -> None:
        validate.one_of("TorchModel", "initial", self.initial, ("seed", "given"))
        object.__setattr__(self, "together", _together(self.together, self.device))
        object.__setattr__(self, "network", _private(self.network))
        object.__setattr__(self, "kind", _kind(self.kind, self.loss))
        object.__setattr__(self, "classes", _classes(self.classes, self.kind, self.network))
        if self.initial == "seed":
            # Counters start anew too, and a network that cannot be drawn is refused here.
            _draw(self.network, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_working", "_clipping", "_batching")}

    @cached_property
    def layout(self) -> Layout:
        """Block "parameters", then "statistics" where the network has any."""
        return layout_of(self.network)

    @property
    def _network(self) -> Network:
        """The working copy of the network, made once in each process."""
        if "_working" not in self.__dict__:
            object.__setattr__(self, "_working", Network(self.network, self.loss, self._loss, self.device))
        working: Network = self.__dict__["_working"]
        return working

    @property
    def _clipped(self) -> Clipped:
        """Sums clipped gradients on the working copy. Raises Refused as `check_private`."""
        if "_clipping" not in self.__dict__:
            self.check_private()
            network = self._network if self.device == "cpu" else Network(self.network, self.loss, self._loss)
            object.__setattr__(
                self, "_clipping", Clipped(network, self._loss, isinstance(self.loss, str), self.kind, self.classes)
            )
        clipping: Clipped = self.__dict__["_clipping"]
        return clipping

    @property
    def _batched(self) -> Batched:
        """Trains several clients at a time on the working copy."""
        if "_batching" not in self.__dict__:
            object.__setattr__(self, "_batching", Batched(self._network, self._loss, self.together, self._train))
        batching: Batched = self.__dict__["_batching"]
        return batching

    def init(self, rng: np.random.Generator) -> Vector:
        """float32[d], the first weights: drawn by the layers' own rules, or those of the given network."""
        network = self.network
        if self.initial == "seed":
            network = copy.deepcopy(network)
            _draw(network, int(rng.integers(2**63)))
        return self._vector(network)

    def train(self, works: Sequence[LocalTraining], data: Sequence[Examples]) -> Sequence[Trained]:
        """Carries out each client's local training. Raises InvalidInput for data that the network rejects."""
        if self.together > 1:
            return self._batched.train(works, data)
        return [self._train(work, part) for work, part in zip(works, data, strict=True)]

    def _train(self, work: LocalTraining, data: Examples) -> Trained:
        if work.local.privacy is None:
            return train(self._network, work, data)
        with seeded(work.seed):  # from which the key of each pass is drawn
            return descend_privately(self.clipped_gradient_sum, self._clipped.size, work, data)

    def check_private(self) -> None:
        """Raises Refused, naming the layer, where one mixes the examples of a batch."""
        refuse_mixing(self.network)

    def clipped_gradient_sum(self, vector: Vector, data: Examples, clip_norm: float) -> tuple[Array, float]:
        """float64[p], the sum of the rows' clipped gradients in training mode; and the sum of losses. See `core.training.dpsgd`.

        What layers draw at random follows the example's bits, and a key that torch's default generator gives for this call.
        Raises Refused as `check_private`, and for a network in which an example leaves a trace in the next; and InvalidInput for
        data that the network rejects.
        """
        self.layout.check_size(vector)
        return self._clipped.sum(vector, data.x, data.y, clip_norm)

    def gradient(self, vector: Vector, data: Examples) -> Vector:
        """float32[p], the gradient of the mean loss in training mode. With BatchNorm, all rows are one batch."""
        network = self._loaded(vector, training=True)
        x, y = network.tensor(data.x), network.tensor(data.y)
        through = network.through(x, data.y)
        flat, targets = network.gradient
        rows = len(data) if network.statistics else ROWS
        grad = torch.set_grad_enabled(through is network.autograd)
        with explained("training", data.x), seeded(0, network.random, network.device), grad:
            for start in range(0, len(data), rows):
                part = x[start : start + rows]
                through.backward(part, y[start : start + rows], targets, float(start > 0), len(part) / len(data))
        gradient: Vector = flat.to("cpu", copy=True).numpy()
        return gradient

    def evaluate(self, vector: Vector, data: Examples) -> Scored:
        """Scores and mean loss (0 without rows) in evaluation mode. Raises InvalidInput for data that the network rejects."""
        network = self._loaded(vector, training=False)
        x, y, found, loss = network.tensor(data.x), network.tensor(data.y), [], 0.0
        through = network.through(x, data.y)
        with explained("evaluation", data.x), seeded(0, network.random, network.device), torch.no_grad():
            for start in range(0, max(len(data), 1), ROWS):
                targets = y[start : start + ROWS]
                scores = through.scores(x[start : start + ROWS])
                loss += self._loss(scores, targets).item() * len(targets) / len(data) if len(data) else 0.0
                found.append(self._shaped(scores, targets))
        return Scored(torch.cat(found).cpu().numpy(), data.y, loss)

    def scores(self, vector: Vector, x: Array) -> Array:
        """The scores of inputs x [n, ...], shaped as `Scored.scores`. Raises InvalidInput for inputs that the network rejects."""
        network = self._loaded(vector, training=False)
        rows = network.tensor(x)
        through = network.through(rows)
        with explained("evaluation", x), seeded(0, network.random, network.device), torch.no_grad():
            scores = torch.cat([through.scores(rows[start : start + ROWS]) for start in range(0, max(len(x), 1), ROWS)])
        if self.kind != "multiclass" and scores.ndim > 1 and scores.shape[-1] == 1:
            scores = scores.squeeze(-1)
        return scores.cpu().numpy()

    def check(self, data: Examples, where: str) -> None:
        """Raises InvalidInput, saying where, for data whose shape, type or labels do not fit."""
        check_rows(data.x, where)
        rows = np.array([0])
        if data.x.dtype == np.int64:
            # If any index is outside a table, so is the largest or the smallest.
            flat = data.x.reshape(len(data), -1)
            rows = np.array([flat.max(axis=1).argmax(), flat.min(axis=1).argmin()])
        elif data.x.dtype.kind in "iub":
            raise InvalidInput(f"{where}: whole numbers in x must be int64; found {data.x.dtype}. Use x.astype(np.int64).")
        else:
            check_numbers("x", data.x, where)
        check_targets(data, self.kind, self.classes, where)
        try:
            self.evaluate(self._network.read(), Examples(data.x[rows], data.y[rows]))
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from error.__cause__

    def module(self, vector: Vector) -> nn.Module:
        """A fresh module with these weights, in evaluation mode. Raises InvalidInput for a vector of another size."""
        module = copy.deepcopy(self.network)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with torch.no_grad():
            for name, values in self.layout.unflatten(vector).items():
                tensors[name].copy_(tensor(values))
        return module.eval()

    def to_plain(self) -> dict[str, Any]:
        """The declaration as plain data: the network by text, source and fixed tensors, given weights by their hash."""
        fixed = [p.detach() for p in self.network.parameters() if not p.requires_grad] + [*local_buffers(self.network).values()]
        own = {type(m) for m in self.network.modules() if not type(m).__module__.startswith("torch.")}
        return {
            "network": str(self.network),
            "classes_of_network": {type_name(c): code_hash(c) for c in sorted(own, key=type_name)},
            "constants": _digest(*(t.numpy() for t in fixed)),
            "loss": to_plain(self.loss),
            "kind": self.kind,
            "classes": self.classes,
            "layout": to_plain(self.layout),
            "initial": "seed" if self.initial == "seed" else _digest(self._vector(self.network)),
        }

    def _loaded(self, vector: Vector, training: bool) -> Network:
        self.layout.check_size(vector)
        network = self._network
        network.load(vector)
        network.mode(training)
        return network

    def _vector(self, network: nn.Module) -> Vector:
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        return self.layout.flatten({e.name: tensors[e.name].detach().numpy() for b in self.layout.blocks for e in b.entries})

    def _loss(self, scores: Tensor, y: Tensor) -> Tensor:
        """The mean loss. Raises InvalidInput where scores and targets do not match; torch might broadcast them instead."""
        function = _LOSSES[self.loss][1] if isinstance(self.loss, str) else self.loss
        loss = function(self._shaped(scores, y), y)
        if loss.ndim:
            raise InvalidInput(f"The loss must be a scalar tensor, the mean over the batch; found shape {tuple(loss.shape)}.")
        return loss

    def _shaped(self, scores: Tensor, y: Tensor) -> Tensor:
        """The scores, without a last axis of length 1 where y has none. Raises InvalidInput where they do not match."""
        if self.kind == "multiclass":
            if scores.shape[:-1] == y.shape and scores.shape[-1] == self.classes:
                return scores
        else:
            shaped = scores.squeeze(-1) if scores.ndim == y.ndim + 1 else scores
            if shaped.shape == y.shape:
                return shaped
        expected = (*y.shape, self.classes) if self.kind == "multiclass" else tuple(y.shape)
        raise InvalidInput(
            f"For targets y {tuple(y.shape)} a {self.kind} network must give scores {expected}; found {tuple(scores.shape)}. "
            f"Change the network's output, the number of classes, or the shape of y."
        )


def _together(together: int | None, device: str) -> int:
    """How many clients train at a time. Raises InvalidInput for a device that is not there, or a number that does not fit it."""
    validate.one_of("TorchModel", "device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput('TorchModel was given device="cuda", but torch finds no GPU here. Use device="cpu" (the default).')
    if together is None:
        return 32 if device == "cuda" else 1
    validate.count("TorchModel", "together", together)
    if device == "cuda" and together == 1:
        raise InvalidInput("On a GPU TorchModel expects together >= 2, because one process serves all clients; found 1.")
    return int(together)


def _private(network: nn.Module) -> nn.Module:
    """A float32 copy of the network on the CPU. Raises InvalidInput for a network that cannot be a model."""
    if not isinstance(network, nn.Module):
        raise InvalidInput(f"TorchModel expects an nn.Module; found {type(network).__name__}.")
    if any(nn.parameter.is_lazy(p) for p in network.parameters()):
        raise InvalidInput("The network has lazy layers of unknown size; run one batch through it first.")
    if any(p.is_complex() for p in network.parameters()):
        raise InvalidInput("The network has complex parameters; a model is a vector of real numbers.")
    if not any(p.requires_grad for p in network.parameters()):
        raise InvalidInput("The network has no trainable parameter; set requires_grad=True on some.")
    try:
        private = copy.deepcopy(network).cpu().float()
    except (RuntimeError, TypeError) as error:
        raise InvalidInput(f"The network cannot be copied (copy.deepcopy): {error}.") from error
    for module in private.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False  # the step works on one dense vector
    return private


def _kind(kind: Task | None, loss: object) -> Task:
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise InvalidInput(f"Unknown loss {loss!r}; expected one of {', '.join(_LOSSES)}, or a function of (scores, y).")
        if kind not in (None, _LOSSES[loss][0]):
            raise InvalidInput(f"The loss {loss!r} is for a {_LOSSES[loss][0]} model; found kind={kind!r}.")
        return _LOSSES[loss][0]
    if not callable(loss):
        raise InvalidInput(f"TorchModel expects loss as a name or a function of (scores, y); found {type(loss).__name__}.")
    if kind not in ("multiclass", "binary", "regression"):
        raise InvalidInput(f'With a loss function, say kind="multiclass", "binary" or "regression"; found {kind!r}.')
    return kind


def _classes(classes: int | None, kind: Task, network: nn.Module) -> int:
    if kind != "multiclass":
        return 2 if kind == "binary" else 0
    if classes is None:
        last = next((m for m in reversed(list(network.modules())) if isinstance(m, nn.Linear)), None)
        classes = 0 if last is None else last.out_features
    if not validate.is_count(classes, 2):
        raise InvalidInput(f"A multiclass model needs classes of at least 2; found {classes!r}. Say TorchModel(..., classes=).")
    return classes


def _draw(network: nn.Module, seed: int) -> None:
    """Draws each submodule's weights anew, inner ones first. Frozen parameters stay. Raises InvalidInput where one cannot."""
    frozen = [(p, p.detach().clone()) for p in network.parameters() if not p.requires_grad]
    with seeded(seed), torch.no_grad():
        for name, module in reversed(list(network.named_modules())):
            # torch's own attention and transformers have it with an underscore.
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
            elif any(p.requires_grad for p in module.parameters(recurse=False)):
                raise InvalidInput(
                    f"Submodule {name or 'network'!r} ({type(module).__name__}) holds parameters but has no reset_parameters(), "
                    f'so it cannot be drawn from a seed. Give it one, or use initial="given".'
                )
        for parameter, values in frozen:
            parameter.copy_(values)


def _digest(*arrays: Array) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
