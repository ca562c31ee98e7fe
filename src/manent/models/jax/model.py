"""Pure JAX functions as a model. Networks of flax and equinox can be used in their functional forms."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from manent.core import validate
from manent.core.canonical import code_hash, to_plain, type_name
from manent.core.errors import InvalidInput, MissingExtra, Refused
from manent.core.examples import Examples
from manent.core.metrics import Scored, Task
from manent.core.training import LocalTraining, Trained, descend_privately
from manent.core.training.dpsgd import clip_factors
from manent.core.vectors import Array, Block, Entry, Layout, Vector
from manent.models.checks import check_numbers, check_rows, check_targets
from manent.models.exact import squares

try:
    import jax
    import jax.numpy as jnp
except ImportError:  # pragma: no cover
    raise MissingExtra("jax", "jax", "JaxModel") from None

from manent.models.jax.devices import DEVICES
from manent.models.jax.training import Recipe, Tree, aligned, capacity, flat, numbers, padded, schedule, training_program

DEVICES.first  # noqa: B018 - starts JAX

ROWS = 256  # rows in one pass, where only a sum over the rows is needed
FAULTS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)  # the errors that tracing a function may raise
PURE = "Compute everything from the parameters and the row; draw random numbers from a key that is fixed."
ALONE = 64  # the most rows in one pass, where each row has its own gradient
STORED = 1 << 24  # the most numbers in these gradients


def _cross_entropy(scores: Any, y: Any) -> Any:
    chosen = y[..., None] == jnp.arange(scores.shape[-1])  # not a gather, which XLA cannot fuse
    return jax.nn.logsumexp(scores, axis=-1) - jnp.where(chosen, scores, 0).sum(axis=-1)


def _binary_cross_entropy(scores: Any, y: Any) -> Any:
    return jax.nn.softplus(scores) - y * scores


def _mse(scores: Any, y: Any) -> Any:
    return (scores - y) ** 2


# For each loss, the kind of model, and a function that gives the loss of each answer.
_LOSSES: dict[str, tuple[Task, Callable[[Any, Any], Any]]] = {
    "cross_entropy": ("multiclass", _cross_entropy),
    "binary_cross_entropy": ("binary", _binary_cross_entropy),
    "mse": ("regression", _mse),
}


@dataclass(frozen=True, eq=False)
class JaxModel:
    """A pure function of parameters and inputs, with a loss: `JaxModel(init, apply, "cross_entropy", classes=10)`.

    The vector has one block, "parameters", with the leaves of the parameters' tree in JAX's order, each under its path
    ("dense.kernel"). A client's whole local training is one compiled program, which serves all clients of about the same size. It
    runs on the CPU, with one thread for a client. A simulation trains several clients in threads, and forks no process.

    Attributes:
        draw: the function init: it makes the parameters, a pytree of float32 arrays, from a `jax.random.key`.
        apply: a function of (parameters, x) that gives the scores: logits [n] or [n, 1] (binary), logits [n, classes] or
            [n, length, classes] (multiclass), or predictions [n] or [n, 1] (regression). A row's scores must depend on that row
            alone (so no BatchNorm), and on nothing random. Whole numbers in x arrive as int32. JAX does not refuse an index that
            is too large for a table.
        loss: "cross_entropy", "binary_cross_entropy" (of logits) or "mse"; or a function of (scores, y) that gives a scalar, the
            mean of the rows' losses. Scores [n, 1] reach it as [n].
        kind: "multiclass", "binary" or "regression". It follows from a named loss.
        classes: the number of classes of a multiclass model.

    Raises InvalidInput where init does not give a tree of float32 arrays, and where loss, kind and classes do not fit together.
    """

    draw: Callable[[Any], Tree]
    apply: Callable[[Tree, Any], Any]
    loss: str | Callable[[Any, Any], Any]
    _: KW_ONLY
    kind: Task = None  # type: ignore[assignment]  # resolved below
    classes: int = None  # type: ignore[assignment]  # resolved below

    threadsafe: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, function in (("init", self.draw), ("apply", self.apply)):
            if not callable(function):
                raise InvalidInput(f"JaxModel expects {name} as a function; found {type(function).__name__}.")
        object.__setattr__(self, "kind", _kind(self.kind, self.loss))
        object.__setattr__(self, "classes", _classes(self.classes, self.kind))
        self.layout  # noqa: B018 - raises for parameters that are no vector

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_programs"}

    @cached_property
    def layout(self) -> Layout:
        """Block "parameters". Raises InvalidInput where init does not give float32 arrays."""
        entries = []
        for path, leaf in jax.tree.leaves_with_path(self._shapes):
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "parameters"
            if leaf.dtype != np.float32:
                raise InvalidInput(
                    f"init gives the parameter {name!r} as {leaf.dtype}; a model is a vector of float32. Make it float32; if "
                    f"it is not trained, keep it in apply instead."
                )
            entries.append(Entry(name, tuple(leaf.shape)))
        if not entries:
            raise InvalidInput("init gives no parameter; expected a pytree with at least one float32 array.")
        return Layout((Block("parameters", tuple(entries)),))

    def init(self, rng: np.random.Generator) -> Vector:
        """float32[d], the first weights. Raises InvalidInput where they are not finite."""
        with jax.default_device(DEVICES.first):
            tree = jax.jit(self.draw)(jax.random.key(int(rng.integers(2**32)), impl="threefry2x32"))
        names = (entry.name for entry in self.layout.blocks[0].entries)
        return self.layout.flatten(dict(zip(names, jax.tree.leaves(tree), strict=True)))

    def train(self, works: Sequence[LocalTraining], data: Sequence[Examples]) -> Sequence[Trained]:
        """Carries out each client's local training. Raises InvalidInput for data that apply or the loss rejects."""
        return [self._train(work, part) for work, part in zip(works, data, strict=True)]

    def _train(self, work: LocalTraining, data: Examples) -> Trained:
        if work.local.privacy is not None:
            return descend_privately(self.clipped_gradient_sum, self.layout.size, work, data)
        recipe, size = Recipe.of(work), capacity(len(data), 16)
        found = self._programs.run(
            ("train", recipe),
            training_program(self._losses, self._tree, recipe),
            numbers(work),
            padded(data.x, size),
            padded(data.y, size),
            schedule(work, len(data)),
            np.asarray(len(work.batches), np.int32),
            *recipe.vectors(work),
        )
        trained: Vector = np.asarray(found)
        return Trained(work.start, trained[:-1], float(trained[-1]))

    def gradient(self, vector: Vector, data: Examples) -> Vector:
        """float32[p], the gradient of the mean loss over all rows."""
        vector, total = self._checked(vector), np.zeros(self.layout.size, np.float32)
        for part, (x, y) in _passes(data.x, data.y):
            weights = np.zeros(len(x), np.float32)
            weights[:part] = 1 / len(data)
            total += np.asarray(self._programs.run("gradient", self._gradient, vector, x, y, weights))
        return total

    def check_private(self) -> None:
        """Does nothing: each row goes through apply alone. `clipped_gradient_sum` refuses an apply that is not pure."""

    def clipped_gradient_sum(self, vector: Vector, data: Examples, clip_norm: float) -> tuple[Array, float]:
        """float64[p], the sum of the rows' clipped gradients; and the sum of losses. See `core.training.dpsgd`.

        Rows pass one after another through one compiled program, whatever their number, so no row's bits depend on the others.
        Raises Refused where apply or the loss is not a pure function of the parameters and one row.
        """
        vector, total, loss = self._checked(vector), np.zeros(self.layout.size), 0.0
        if len(data):
            impure = self._impure(data.x[:1], data.y[:1])
            if impure is not None:
                raise Refused(f"{impure} So no gradient belongs to one example. {PURE}")
        most = max(1, min(ALONE, STORED // self.layout.size))
        for start in range(0, len(data), most):
            x, y = data.x[start : start + most], data.y[start : start + most]
            count = np.asarray(len(x), np.int32)
            arrays = padded(x, most), padded(y, most)
            gradients, losses = self._programs.run("clipped", self._alone, vector, *arrays, count)
            numbers = np.asarray(gradients)[: len(x)].astype(np.float64)
            sizes = squares(numbers)
            numbers[~np.isfinite(sizes)] = 0
            total += clip_factors(sizes, clip_norm) @ numbers
            loss += float(np.asarray(losses)[: len(x)].sum(dtype=np.float64))
        return total, loss

    def evaluate(self, vector: Vector, data: Examples) -> Scored:
        """Scores and mean loss (0 where there are no rows). Raises InvalidInput for data that apply or the loss rejects."""
        vector, scores, losses = self._checked(vector), [], 0.0
        for part, (x, y) in _passes(data.x, data.y):
            found, loss = self._programs.run("evaluate", self._evaluate, vector, x, y)
            scores.append(np.asarray(found)[:part])
            losses += float(np.asarray(loss)[:part].sum(dtype=np.float64))
        return Scored(np.concatenate(scores), data.y, losses / max(len(data), 1))

    def scores(self, vector: Vector, x: Array) -> Array:
        """The scores of inputs x [n, ...], shaped as `Scored.scores`. Raises InvalidInput for inputs that apply rejects."""
        vector, found = self._checked(vector), []
        for part, (rows,) in _passes(x):
            found.append(np.asarray(self._programs.run("scores", self._scores, vector, rows))[:part])
        scores = np.concatenate(found)
        return scores[..., 0] if self.kind != "multiclass" and scores.ndim > 1 and scores.shape[-1] == 1 else scores

    def check(self, data: Examples, where: str) -> None:
        """Raises InvalidInput, saying where, for data whose shape, type or labels do not fit."""
        check_rows(data.x, where)
        if data.x.dtype.kind not in "iub":
            check_numbers("x", data.x, where)
        elif data.x.dtype != np.int64:
            raise InvalidInput(f"{where}: whole numbers in x must be int64; found {data.x.dtype}. Use x.astype(np.int64).")
        elif np.abs(data.x).max() > np.iinfo(np.int32).max:
            raise InvalidInput(f"{where}: x holds numbers beyond the 32 bits that JAX computes with; use smaller codes.")
        check_targets(data, self.kind, self.classes, where)
        key = data.x.shape[1:], data.x.dtype, data.y.shape[1:], len(data) > 1
        if key in self._fitting:
            return
        try:
            self._try(padded(data.x[:2], len(data.x[:2])), padded(data.y[:2], len(data.y[:2])))
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from error.__cause__
        self._fitting.add(key)

    def tree(self, vector: Vector) -> Tree:
        """The tree that init gives, with the values of a vector [d]. Raises InvalidInput for a vector of another size."""
        self.layout.check_size(vector)
        with jax.default_device(DEVICES.first):
            return self._tree(jnp.asarray(vector))

    def to_plain(self) -> dict[str, Any]:
        """The declaration as plain data: functions by the hash of their source, and by what they close over."""
        return {
            "init": _code(self.draw),
            "apply": _code(self.apply),
            "loss": self.loss if isinstance(self.loss, str) else _code(self.loss),
            "kind": self.kind,
            "classes": self.classes,
            "layout": to_plain(self.layout),
        }

    # These functions are compiled.

    def _tree(self, vector: Any) -> Tree:
        leaves, start = [], 0
        for entry in self.layout.blocks[0].entries:
            leaves.append(vector[start : start + entry.size].reshape(entry.shape))
            start += entry.size
        return jax.tree.unflatten(jax.tree.structure(self._shapes), leaves)

    def _losses(self, tree: Tree, x: Any, y: Any) -> Any:
        """[n], the loss of each row."""
        return self._losses_of(self._shaped(self.apply(tree, x), y), y)

    def _losses_of(self, scores: Any, y: Any) -> Any:
        if isinstance(self.loss, str):
            answers = _LOSSES[self.loss][1](scores, y)
            return answers.reshape(len(answers), -1).mean(axis=1)
        losses = jax.vmap(lambda s, t: self.loss(s[None], t[None]))(scores, y)  # type: ignore[operator]
        if losses.shape != (len(scores),):
            raise InvalidInput(f"The loss must be a scalar, the mean over the batch; found shape {losses.shape[1:]}.")
        return losses

    def _gradient(self, vector: Any, x: Any, y: Any, weights: Any) -> Any:
        return flat(jax.grad(lambda tree: (self._losses(tree, x, y) * weights).sum())(self._tree(vector)))

    def _alone(self, vector: Any, x: Any, y: Any, count: Any) -> tuple[Any, Any]:
        """The gradients [n, p] and the losses [n] of the first `count` of n rows; zeros for the others.

        A loop, and not a batch: the same operations of the same shapes for each row, wherever it stands.
        """

        def one(row: Any, found: tuple[Any, Any]) -> tuple[Any, Any]:
            gradients, losses = found
            loss, gradient = self._one(vector, jax.lax.dynamic_slice_in_dim(x, row, 1), jax.lax.dynamic_slice_in_dim(y, row, 1))
            return gradients.at[row].set(gradient), losses.at[row].set(loss)

        gradients, losses = jax.lax.fori_loop(0, count, one, (jnp.zeros((len(x), len(vector))), jnp.zeros(len(x))))
        return gradients, losses

    def _one(self, vector: Any, x: Any, y: Any) -> tuple[Any, Any]:
        """The loss and the gradient [p] of one row, x [1, ...] and y [1, ...]."""
        loss, gradient = jax.value_and_grad(lambda v: self._losses(self._tree(v), x, y)[0])(vector)
        return loss, gradient

    def _impure(self, x: Array, y: Array) -> str | None:
        """Why apply or the loss is not a pure function, as a sentence; None if it seems to be one. Traced once for each shape."""
        key = "pure", x.shape[1:], x.dtype, y.shape[1:], y.dtype
        if key in self._fitting:
            return None
        arrays = np.zeros(self.layout.size, np.float32), padded(x[:1], 1), padded(y[:1], 1)
        first, second = (_traced(self._one, arrays) for _ in range(2))
        if first != second:
            return "apply or the loss does something else each time that it is called: it reads what it, or another, changes."
        if "pure_callback" in first or "io_callback" in first:
            return "apply or the loss calls back into Python, where it may keep what it has seen."
        self._fitting.add(key)
        return None

    def _evaluate(self, vector: Any, x: Any, y: Any) -> tuple[Any, Any]:
        scores = self._shaped(self.apply(self._tree(vector), x), y)
        return scores, self._losses_of(scores, y)

    def _scores(self, vector: Any, x: Any) -> Any:
        return self.apply(self._tree(vector), x)

    def _one_by_one(self, vector: Any, x: Any, y: Any) -> tuple[Any, Any, Any, Any]:
        """The first row's scores alone and in a batch; the mean of the rows' losses, and the batch's loss."""
        first, _ = self._evaluate(vector, x[:1], y[:1])
        scores, losses = self._evaluate(vector, x, y)
        mean = losses.mean() if isinstance(self.loss, str) else self.loss(scores, y)
        return first[0], scores[0], losses.mean(), mean

    # These are made once.

    @cached_property
    def _shapes(self) -> Tree:
        """The parameters' tree, with shapes in place of arrays. Raises InvalidInput where init cannot be traced."""
        try:
            return jax.eval_shape(self.draw, jax.random.key(0, impl="threefry2x32"))
        except FAULTS as error:
            raise InvalidInput(
                f"init must be a pure function of a key that gives a pytree of arrays; it fails: {_brief(error)}. The tree must "
                f"not hold functions or settings (equinox: split them off with eqx.partition(module, eqx.is_array))."
            ) from error

    @cached_property
    def _programs(self) -> _Programs:
        return _Programs()

    @cached_property
    def _fitting(self) -> set[Any]:
        """Shapes and types of data that were tried and fit."""
        return set()

    def _checked(self, vector: Array) -> Vector:
        self.layout.check_size(vector)
        return np.asarray(vector, np.float32)

    def _try(self, x: Array, y: Array) -> None:
        """Raises InvalidInput where apply or the loss fails on two rows, or does not treat them one by one."""
        vector = self.init(np.random.default_rng(0))
        first, again, mean, loss = map(np.asarray, self._programs.run("try", self._one_by_one, vector, x, y))
        if not np.allclose(first, again, 1e-3, 1e-4, equal_nan=True):
            raise InvalidInput(
                "apply gives a row other scores in a batch than alone. Batches are filled up to a fixed size, so a row must not "
                "depend on others: replace BatchNorm by GroupNorm or LayerNorm."
            )
        if not np.allclose(mean, loss, 1e-3, 1e-4, equal_nan=True):
            raise InvalidInput(
                f"The loss of two rows must be the mean of their losses, {mean:.6g}; found {loss:.6g}. Use a mean."
            )
        impure = self._impure(x, y)
        if impure is not None:
            raise InvalidInput(f"{impure} So results would depend on who computes what. {PURE}")

    def _shaped(self, scores: Any, y: Any) -> Any:
        """The scores, without a last axis of length 1 where y has none. Raises InvalidInput where they do not match."""
        if self.kind == "multiclass":
            if scores.shape[:-1] == y.shape and scores.shape[-1] == self.classes:
                return scores
        else:
            shaped = scores[..., 0] if scores.ndim == y.ndim + 1 and scores.shape[-1] == 1 else scores
            if shaped.shape == y.shape:
                return shaped
        expected = (*y.shape, self.classes) if self.kind == "multiclass" else tuple(y.shape)
        raise InvalidInput(
            f"For targets y {tuple(y.shape)} a {self.kind} model must give scores {expected}; found {tuple(scores.shape)}. "
            f"Change what apply gives, the number of classes, or the shape of y."
        )


class _Programs:
    """Compiled programs, by what they compute, their shapes and their device. Several threads may run them at once."""

    def __init__(self) -> None:
        self.compiled: dict[Hashable, Callable[..., Any]] = {}

    def run(self, name: Hashable, function: Callable[..., Any], *arrays: Array) -> Any:
        """The result of a function of numpy arrays. Raises InvalidInput where the function cannot be traced."""
        arrays = tuple([aligned(array) for array in arrays])
        with DEVICES.one() as number:
            key = name, number, *[(array.shape, array.dtype) for array in arrays]
            if key not in self.compiled:
                self.compiled[key] = _compile(function, arrays, DEVICES[number])
            found = self.compiled[key](*arrays)
            for leaf in jax.tree.leaves(found):
                leaf.block_until_ready()
            return found


def _compile(function: Callable[..., Any], arrays: tuple[Array, ...], device: Any) -> Callable[..., Any]:
    with jax.default_device(device):
        try:
            lowered = jax.jit(function).lower(*arrays)
        except FAULTS as error:
            raise InvalidInput(_failure(error, arrays)) from error
        compiled: Callable[..., Any] = lowered.compile()
    return compiled


def _traced(function: Callable[..., Any], arrays: tuple[Array, ...]) -> str:
    """What a function does to arrays, with its constants, as text. Raises InvalidInput where it cannot be traced."""
    with jax.default_device(DEVICES.first):
        try:
            # A function of its own each time, so that JAX does not remember the last trace.
            found = jax.make_jaxpr(lambda *given: function(*given))(*arrays)
            constants = hashlib.sha256(b"".join(map(_constant, found.consts)))
        except FAULTS as error:
            raise InvalidInput(_failure(error, arrays)) from error
    return f"{re.sub('0x[0-9a-f]+', '', str(found.jaxpr))} {constants.hexdigest()}"


def _constant(value: Any) -> bytes:
    """The bits of an array that a function closes over. Raises TypeError for a stand-in that another trace left behind."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value).tobytes()


def _failure(error: Exception, arrays: tuple[Array, ...]) -> str:
    shapes = ", ".join(f"{a.dtype}[{', '.join(map(str, a.shape))}]" for a in arrays[1:])
    return f"apply or the loss fails on {shapes}: {_brief(error)}. Change them to fit the data, or the data to fit them."


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0].rstrip(".")


def _passes(*arrays: Array) -> Iterator[tuple[int, tuple[Array, ...]]]:
    """The rows of the arrays in parts of few sizes: how many rows of a part count, and the padded arrays."""
    for start in range(0, max(len(arrays[0]), 1), ROWS):
        parts = [array[start : start + ROWS] for array in arrays]
        size = capacity(len(parts[0]), 16)
        yield len(parts[0]), tuple(padded(part, size) for part in parts)


def _kind(kind: Task | None, loss: object) -> Task:
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise InvalidInput(f"Unknown loss {loss!r}; expected one of {', '.join(_LOSSES)}, or a function of (scores, y).")
        if kind not in (None, _LOSSES[loss][0]):
            raise InvalidInput(f"The loss {loss!r} is for a {_LOSSES[loss][0]} model; found kind={kind!r}.")
        return _LOSSES[loss][0]
    if not callable(loss):
        raise InvalidInput(f"JaxModel expects loss as a name or a function of (scores, y); found {type(loss).__name__}.")
    if kind not in ("multiclass", "binary", "regression"):
        raise InvalidInput(f'With a loss function, say kind="multiclass", "binary" or "regression"; found {kind!r}.')
    return kind


def _classes(classes: int | None, kind: Task) -> int:
    if kind != "multiclass":
        return 2 if kind == "binary" else 0
    if classes is None or not validate.is_count(classes, 2):
        raise InvalidInput(f"A multiclass model needs classes of at least 2; found {classes!r}. Say JaxModel(..., classes=).")
    return classes


def _code(value: Any, within: tuple[Any, ...] = ()) -> Any:
    """Plain data that differ for different functions: their source, captured values, bound objects and partial arguments."""
    if isinstance(value, functools.partial):
        return [_code(part, within) for part in (value.func, value.args, value.keywords)]
    if inspect.ismethod(value):
        return [_code(value.__func__, within), _code(value.__self__, within)]
    value = inspect.unwrap(value) if callable(value) else value
    if inspect.isfunction(value):
        closed = {} if value in within else inspect.getclosurevars(value).nonlocals
        inside = {name: _code(found, (*within, value)) for name, found in closed.items()}
        return {"code": type_name(value), "sha256": code_hash(value), "closure": inside}
    if isinstance(value, tuple | list):
        return [_code(item, within) for item in value]
    if isinstance(value, dict):
        return {str(name): _code(item, within) for name, item in value.items()}
    if isinstance(value, jax.Array | np.ndarray):
        return to_plain(np.asarray(value))
    if value is None or isinstance(value, bool | int | float | str):
        return to_plain(value)
    # Modules and the like are told apart by their text, without addresses in memory.
    text = re.sub(r"0x[0-9a-f]+", "", repr(value))
    return {"text": type_name(type(value)), "sha256": hashlib.sha256(text.encode()).hexdigest()}
