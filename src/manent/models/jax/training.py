"""Local training in JAX: the kernel of `core.training` as one program for a client's whole round, compiled once a shape.

How many steps and examples a client has is no part of a program: its arrays are padded to few sizes, its loop runs as many steps
as the client takes, and rows that only fill up a batch weigh nothing.
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
SMALL = 1 << 15  # bytes; arrays of less are copied at once, in the thread that asks


@dataclass(frozen=True)
class Recipe:
    """Which terms a step has. Each recipe is a program of its own, so that plain SGD does nothing else."""

    clip: bool
    decay: bool
    prox: bool
    anchor: bool
    shift: bool
    momentum: bool
    adam: bool

    @classmethod
    def of(cls, work: LocalTraining) -> Recipe:
        """What one client's training asks for."""
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
        """Of the vectors that the program is given."""
        return ("start", *(("anchor",) if self.anchor else ()), *(("shift",) if self.shift else ()))

    def vectors(self, work: LocalTraining) -> list[Vector]:
        """Likewise, the vectors themselves."""
        return [np.asarray(getattr(work, name), np.float32) for name in self.names]


NUMBERS = ("lr", "prox", "momentum", "decay", "limit")


def numbers(work: LocalTraining) -> Vector:
    """The `NUMBERS` that the program is given, as one array; those that a recipe leaves out are not looked at."""
    local = work.local
    return np.array([work.lr, work.prox, local.momentum, local.weight_decay, local.max_grad_norm or 0.0], np.float32)


def training_program(losses: Losses, unravel: Callable[[Any], Tree], recipe: Recipe) -> Callable[..., Any]:
    """A function (`NUMBERS` [5], x [N, ...], y [N, ...], rows int32[T, B], steps, vectors) to the update and its loss, [d+1].

    `rows` holds each step's row numbers, and -1 where a batch is not full; the vectors are those of the recipe's names.
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
    """The leaves of a tree as one vector [d]."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def _corrected(g: Tree, w: Tree, trees: dict[str, Tree], scalars: dict[str, Any], recipe: Recipe) -> Tree:
    """The gradient with what the kernel adds to it."""
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
    """Where the step goes, and what the rule remembers: momentum's buffer, or Adam's two."""
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
    """The row numbers of each step, int32[T, B], T and B of few sizes that depend on this client alone; -1 fills up."""
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
    """The padded size for `count` things: least, or 4, 16, ... times as much. Few sizes mean few compilations."""
    size = minimum
    while size < count:
        size *= 4
    return size


def padded(array: Array, size: int) -> Array:
    """An array with `size` rows, in a type that JAX holds; the added rows repeat the first, so they can be computed with."""
    dtype = np.dtype(np.float32 if array.dtype.kind == "f" else np.int32)
    if len(array) == size and array.dtype == dtype and array.flags.c_contiguous:
        return array
    grown = aligned_empty((size, *array.shape[1:]), dtype)
    grown[: len(array)] = array
    grown[len(array) :] = array[0] if len(array) else 0
    return grown


def aligned(array: Array) -> Array:
    """The array, or a copy, where JAX reads it in place.

    JAX has its own pool of threads copy a large array that does not begin on a cache line, and then compute there too, instead of
    in the thread that asks: simulated clients, each in a thread of their own, would all wait for that pool.
    """
    if array.nbytes < SMALL or (array.flags.c_contiguous and array.ctypes.data % LINE == 0):
        return array
    copied = aligned_empty(array.shape, array.dtype)
    np.copyto(copied, array)
    return copied
