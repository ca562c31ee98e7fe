"""The state of a study between two sums, and the one form in which it is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from manent.core.vectors import Array, Arrays
from manent.storage.arrays import array_pieces, read_arrays


@dataclass(frozen=True)
class State:
    """The state of a study between two sums.

    Attributes:
        arrays: the algorithm's state, by name.
        layers: the state of each sum's layers, by the sum's name and then by name.
    """

    arrays: Arrays
    layers: Mapping[str, Arrays]

    def named(self) -> dict[str, Array]:
        """All arrays under one name each: "state.NAME" of the algorithm, "layers.SUM/NAME" of a sum's layers."""
        found = {f"state.{name}": np.asarray(array) for name, array in self.arrays.items()}
        for sum, arrays in self.layers.items():
            found |= {f"layers.{sum}/{name}": np.asarray(array) for name, array in arrays.items()}
        return found

    @classmethod
    def of(cls, named: Arrays, sums: Iterable[str]) -> State:
        """The state that `named` gave; other names are left out.

        Args:
            sums: the names of the plan's sums. Each has an entry in `layers`, which may be empty.
        """
        return cls(_under(named, "state."), {sum: _under(named, f"layers.{sum}/") for sum in sums})

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Its bytes as safetensors, in pieces."""
        return array_pieces(self.named())

    @classmethod
    def read(cls, chunks: Iterable[bytes], size: int, sums: Iterable[str]) -> State:
        """The state that `pieces` gave.

        Args:
            size: bytes in all chunks.
            sums: as in `of`.

        Raises InvalidInput for bytes that are not named arrays.
        """
        return cls.of(read_arrays(chunks, size), sums)


def _under(named: Arrays, head: str) -> dict[str, Array]:
    return {name.removeprefix(head): array for name, array in named.items() if name.startswith(head)}
