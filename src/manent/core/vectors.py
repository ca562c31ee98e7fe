"""Vectors and layouts: every model and every client's term is one flat vector, cut into named blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manent.core.errors import InvalidInput

Vector = NDArray[np.float32]
Array = NDArray[Any]
Arrays = Mapping[str, Array]
LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Entry:
    """One named tensor. `shape` () is a scalar."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Block:
    """A part of a vector with its own rule.

    Attributes:
        name: unique in the layout.
        entries: the tensors, in order.
        bound: public bound on the absolute value of each coordinate that a client may send, or None where none is declared
            (then only a summation that needs no bound accepts it).
    """

    name: str
    entries: tuple[Entry, ...]
    bound: float | None = None

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)


def scalar(name: str, bound: float | None = None) -> Block:
    """A block of one number."""
    return Block(name, (Entry(name, ()),), bound)


@dataclass(frozen=True)
class Layout:
    """How a flat vector is cut: blocks, and within them named tensors, one after another."""

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        for kind, names in (
            ("block", [block.name for block in self.blocks]),
            ("tensor", [entry.name for block in self.blocks for entry in block.entries]),
        ):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            if twice:
                raise InvalidInput(f"A layout needs unique {kind} names; {twice[0]!r} occurs more than once.")

    @cached_property
    def size(self) -> int:
        """Number of coordinates, d."""
        return sum(block.size for block in self.blocks)

    @cached_property
    def _blocks(self) -> dict[str, slice]:
        slices, start = {}, 0
        for block in self.blocks:
            slices[block.name] = slice(start, start + block.size)
            start += block.size
        return slices

    @cached_property
    def _entries(self) -> dict[str, tuple[slice, tuple[int, ...]]]:
        slices, start = {}, 0
        for block in self.blocks:
            for entry in block.entries:
                slices[entry.name] = (slice(start, start + entry.size), entry.shape)
                start += entry.size
        return slices

    def __contains__(self, block: str) -> bool:
        return block in self._blocks

    def slice(self, block: str) -> slice:
        """Where a block lies. Raises InvalidInput for an unknown name."""
        try:
            return self._blocks[block]
        except KeyError:
            raise InvalidInput(f"No block {block!r} in this layout; it has {', '.join(self._blocks)}.") from None

    def flatten(self, tensors: Mapping[str, Array]) -> Vector:
        """The float32[d] vector of named tensors.

        Raises InvalidInput, naming the tensor, where one is missing, unknown, of another shape, or not finite.
        """
        unknown = sorted(set(tensors) - set(self._entries))
        if unknown:
            raise InvalidInput(f"Tensor {unknown[0]!r} is not in the layout, which has {', '.join(self._entries)}.")
        vector = np.empty(self.size, np.float32)
        for name, (where, shape) in self._entries.items():
            if name not in tensors:
                raise InvalidInput(f"Tensor {name!r} of shape {shape} is missing.")
            tensor = np.asarray(tensors[name])
            if tensor.shape != shape:
                raise InvalidInput(f"Tensor {name!r} has shape {tensor.shape}; the layout expects {shape}.")
            if tensor.dtype.kind not in "fiub":
                raise InvalidInput(f"Tensor {name!r} has type {tensor.dtype}; the layout expects real numbers.")
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
                vector[where] = tensor.reshape(-1)
        self.check_finite(vector)
        return vector

    def unflatten(self, vector: Array) -> dict[str, Array]:
        """Views of a [d] vector as named tensors. Raises InvalidInput where its length is not d."""
        self.check_size(vector)
        return {name: vector[where].reshape(shape) for name, (where, shape) in self._entries.items()}

    def check_size(self, vector: Array) -> None:
        if vector.shape != (self.size,):
            raise InvalidInput(f"Expected a vector of {self.size} numbers, found shape {vector.shape}.")

    def not_finite(self, vector: Array) -> str | None:
        """Name of the first tensor that holds NaN or infinity, or None."""
        with np.errstate(all="ignore"):
            if np.isfinite(np.dot(vector, vector)):  # finite squares come from finite numbers; the rest is looked at closely
                return None
        for name, (where, _) in self._entries.items():
            if not np.isfinite(vector[where]).all():
                return name
        return None

    def check_finite(self, vector: Array) -> None:
        """Raises InvalidInput, naming the tensor, where the vector holds NaN or infinity."""
        name = self.not_finite(vector)
        if name is not None:
            raise InvalidInput(f"Tensor {name!r} holds NaN or infinity; every coordinate must be finite.")


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array with nothing in it that begins on a cache line, so that other libraries need no copy to read it."""
    size = prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    array: Array = raw[start : start + size].view(dtype).reshape(shape)
    return array
