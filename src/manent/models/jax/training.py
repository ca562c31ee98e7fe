"""Local training in JAX: the kernel of `core.training` as one program for a client's whole round, compiled once for each shape.

The number of steps and examples is not part of a program. Arrays are padded to a few sizes, the loop runs as many steps as the
client takes, and rows that only fill up a batch have weight zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from manent.core.training import LocalTraining
from manent.core.vectors import LINE, Array, Vector, aligned_empty

Tree = Any  # a pytree of arrays
Losses = Callable[[Tree, Any, Any], Any]  # (parameters, x, y) to the loss of each row
SMALL = 1 << 15  # bytes; JAX copies smaller arrays at once, in the calling thread


@dataclass(frozen=True)
class Recipe:
    """Which terms a step has. Each recipe has a program of its own, so that plain SGD computes nothing it does not need."""

    clip: bool
    decay: bool
    prox: bool
    anchor: bool
    shift: bool
    momentum: bool
    adam: bool

    @classmethod
    def of(cls, work: LocalTraining) -> Recipe:
        """The recipe for one client's training."""
        local, adam = work.local, work.local.optimizer == "adam"
        return cls(
            clip=local.max_grad_norm is not None,
            decay=bool(local.weight_decay),
            prox=bool(work.prox),
            anchor=bool(work.prox) and work.anchor is not None,
            shift=work.shift is not None,
            momentum=bool(local.momentum) and not adam,
            adam=adam,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the vectors that the program is given."""
        return ("start", *(("anchor",) if self.anchor else ()), *(("shift",) if self.shift else ()))

    def vectors(self, work: LocalTraining) -> list[Vector]:
        """The vectors that the program is given, float32, in the order of `names`."""
        return [np.asarray(getattr(work, name), np.float32) for name in self.names]


NUMBERS = ("lr", "prox", "momentum", "decay", "limit")
"""The numbers that a program is given, in order."""


def numbers(work: LocalTraining) -> Vector:
    """float32[5], the `NUMBERS` of one client's training. A program ignores those that its recipe does not use."""
    local = work.local
    return np.array([work.lr, work.prox, local.momentum, local.weight_decay, local.max_grad_norm or 0.0], np.float32)


def training_program(losses: Losses, unravel: Callable[[Any], Tree], recipe: Recipe) -> Callable[..., Any]:
    """The function to compile, of (numbers [5], x [N, ...], y [N, ...], rows int32[T, B], steps, *vectors).

    It returns [d + 1], the update and then the mean loss.

    Args:
        losses: the loss of each row.
        unravel: makes the parameters' tree of a vector [d].
        recipe: which terms a step has. The function's vectors are those of `recipe.names`.

    `rows` holds the row numbers of each step, and -1 where a batch is not full. The first `steps` steps are taken.
    """

    def train(values: Any, x: Any, y: Any, rows: Any, steps: Any, *vectors: Any) -> Any:
        scalars = dict(zip(NUMBERS, values, strict=True))
        trees = {name: unravel(vector) for name, vector in zip(recipe.names, vectors, strict=True)}
        start = trees["start"]

        def mean_loss(w: Tree, batch: Any) -> Any:
            weights = (batch >= 0).astype(jnp.float32)
            at = jnp.maximum(batch, 0)
            return (losses(w, x[at], y[at]) * weights).sum() / weights.sum()

        def step(number: Any, carried: tuple[Tree, Tree, Any]) -> tuple[Tree, Tree, Any]:
            w, memory, total = carried
            loss, g = jax.value_and_grad(mean_loss)(w, rows[number])
            g = _corrected(g, w, trees, scalars, recipe)
            direction, memory = _direction(g, memory, number, scalars, recipe)
            return jax.tree.map(lambda a, b: a - scalars["lr"] * b, w, direction), memory, total + loss

        zeros = jax.tree.map(jnp.zeros_like, start)
        memory = (zeros, zeros) if recipe.adam else zeros if recipe.momentum else ()
        w, _, total = lax.fori_loop(0, steps, step, (start, memory, jnp.float32(0)))
        return flat((jax.tree.map(jnp.subtract, w, start), total / steps))

    return train


def flat(tree: Tree) -> Any:
    """The leaves of a tree, one after another, as one vector [d]."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def _corrected(g: Tree, w: Tree, trees: dict[str, Tree], scalars: dict[str, Any], recipe: Recipe) -> Tree:
    """The gradient, clipped where the recipe says so, with the terms that the kernel adds."""
    if recipe.clip:
        norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(g)))
        scale = jnp.where(norm > scalars["limit"], scalars["limit"] / norm, 1.0)
        g = jax.tree.map(lambda a: a * scale, g)
    if recipe.decay:
        g = jax.tree.map(lambda a, b: a + scalars["decay"] * b, g, w)
    if recipe.prox:
        anchor = trees["anchor"] if recipe.anchor else trees["start"]
        g = jax.tree.map(lambda a, b, c: a + scalars["prox"] * (b - c), g, w, anchor)
    if recipe.shift:
        g = jax.tree.map(jnp.add, g, trees["shift"])
    return g


def _direction(g: Tree, memory: Tree, number: Any, scalars: dict[str, Any], recipe: Recipe) -> tuple[Tree, Tree]:
    """The direction of the step, and what the rule remembers: momentum's buffer, or Adam's two."""
    if recipe.momentum:
        memory = jax.tree.map(lambda b, a: scalars["momentum"] * b + a, memory, g)
        return memory, memory
    if not recipe.adam:
        return g, memory
    m = jax.tree.map(lambda m, a: 0.9 * m + 0.1 * a, memory[0], g)
    v = jax.tree.map(lambda v, a: 0.999 * v + 0.001 * a * a, memory[1], g)
    taken = (number + 1).astype(jnp.float32)
    first, second = (-jnp.expm1(taken * float(np.log(beta))) for beta in (0.9, 0.999))  # 1 - beta^t, without cancellation
    return jax.tree.map(lambda m, v: m / first / (jnp.sqrt(v / second) + 1e-8), m, v), (m, v)


def schedule(work: LocalTraining, examples: int) -> NDArray[np.int32]:
    """int32[T, B], the row numbers of each step, filled up with -1. T and B have few sizes, and depend on this client alone."""
    everyone = np.arange(examples, dtype=np.int32)
    batches = [everyone[batch] if isinstance(batch, slice) else batch for batch in work.batches]
    longest = max(map(len, batches))
    width = 1 << (longest - 1).bit_length()
    width = width * 3 // 4 if width * 3 // 4 >= longest else width
    rows = np.full((capacity(len(batches), 4), max(longest, min(work.local.batch_size or width, width))), -1, np.int32)
    for number, batch in enumerate(batches):
        rows[number, : len(batch)] = batch
    return rows


def capacity(count: int, minimum: int) -> int:
    """The padded size for `count` things: `minimum` times 1, 4, 16 and so on. Few sizes mean few compilations."""
    size = minimum
    while size < count:
        size *= 4
    return size


def padded(array: Array, size: int) -> Array:
    """The array with `size` rows, in float32 or int32. The added rows repeat the first one, so they cause no errors."""
    dtype = np.dtype(np.float32 if array.dtype.kind == "f" else np.int32)
    if len(array) == size and array.dtype == dtype and array.flags.c_contiguous:
        return array
    grown = aligned_empty((size, *array.shape[1:]), dtype)
    grown[: len(array)] = array
    grown[len(array) :] = array[0] if len(array) else 0
    return grown


def aligned(array: Array) -> Array:
    """The array, or a copy of it, that JAX can read in place.

    If a large array does not begin on a cache line, JAX copies it in its own pool of threads, and then computes there too,
    instead of in the calling thread. Simulated clients have a thread each, and would all wait for that pool.
    """
    if array.nbytes < SMALL or (array.flags.c_contiguous and array.ctypes.data % LINE == 0):
        return array
    copied = aligned_empty(array.shape, array.dtype)
    np.copyto(copied, array)
    return copied
