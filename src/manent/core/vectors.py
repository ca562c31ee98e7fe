"""Vectors and layouts: every model, and everything a client sends, is one flat vector, cut into named blocks of tensors."""

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
    """One named tensor. The shape () is a scalar."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return prod(self.shape)


@dataclass(frozen=True)
class Block:
    """A part of a vector with its own rules.

    Attributes:
        name: unique in the layout.
        entries: the tensors, in order.
        bound: a public bound on the absolute value of each coordinate that a client may send. None declares no bound; then only
            a summation that needs none accepts the block.
    """

    name: str
    entries: tuple[Entry, ...]
    bound: float | None = None

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return sum(entry.size for entry in self.entries)


def scalar(name: str, bound: float | None = None) -> Block:
    """A block that holds one number, with this bound on its absolute value."""
    return Block(name, (Entry(name, ()),), bound)


@dataclass(frozen=True)
class Layout:
    """How a flat vector is cut: into blocks, and these into named tensors, one after another.

    Raises InvalidInput where two blocks, or two tensors, have the same name.
    """

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
        """Where a block lies in the vector. Raises InvalidInput for an unknown name."""
        try:
            return self._blocks[block]
        except KeyError:
            raise InvalidInput(f"No block {block!r} in this layout; it has {', '.join(self._blocks)}.") from None

    def flatten(self, tensors: Mapping[str, Array]) -> Vector:
        """float32[d], the vector of these named tensors.

        Raises InvalidInput, naming the tensor, where one is missing, unknown, of another shape, not of real numbers, or not
        finite as float32.
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
            with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
                vector[where] = tensor.reshape(-1)
        self.check_finite(vector)
        return vector

    def unflatten(self, vector: Array) -> dict[str, Array]:
        """The named tensors of a vector [d], as views. Raises InvalidInput for another shape."""
        self.check_size(vector)
        return {name: vector[where].reshape(shape) for name, (where, shape) in self._entries.items()}

    def check_size(self, vector: Array) -> None:
        """Raises InvalidInput unless the vector has shape [d]."""
        if vector.shape != (self.size,):
            raise InvalidInput(f"Expected a vector of {self.size} numbers, found shape {vector.shape}.")

    def not_finite(self, vector: Array) -> str | None:
        """The name of the first tensor of a vector [d] that holds NaN or infinity; None where all is finite."""
        with np.errstate(all="ignore"):
            if np.isfinite(np.dot(vector, vector)):  # if the squares are finite, so are the numbers
                return None
        for name, (where, _) in self._entries.items():
            if not np.isfinite(vector[where]).all():
                return name
        return None

    def check_finite(self, vector: Array) -> None:
        """Raises InvalidInput, naming the tensor, where a vector [d] holds NaN or infinity."""
        name = self.not_finite(vector)
        if name is not None:
            raise InvalidInput(f"Tensor {name!r} holds NaN or infinity; every coordinate must be finite.")


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of any content that begins on a cache line, so that other libraries can read it without a copy."""
    size = prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    array: Array = raw[start : start + size].view(dtype).reshape(shape)
    return array
