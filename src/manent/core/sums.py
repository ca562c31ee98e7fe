"""The sum of a cohort's vectors along one fixed binary tree.

Floating-point addition is not associative. The tree depends only on the positions in the cohort's roster, so the
result has the same bits for any number of workers and any order of arrival. Memory is O(d log n) when terms come in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.vectors import Array

Total = NDArray[np.float64]


@dataclass(frozen=True)
class Partial:
    """The sum over the positions [index * 2**level, (index + 1) * 2**level); `total` None where none of them answered."""

    level: int
    index: int
    total: Total | None


class TreeSum:
    """Sum of at most `count` vectors of `size` numbers, in float64.

    `add`, `skip` and `merge` may come in any order; each position once. `finish` needs every position.
    """

    def __init__(self, size: int, count: int) -> None:
        self.size, self.count = size, count
        self._nodes: dict[tuple[int, int], Total | None] = {}
        self._taken = 0

    def add(self, position: int, vector: Array) -> None:
        """Add the [d] vector of one position. It is copied."""
        if vector.shape != (self.size,):
            raise InvalidInput(f"Expected a vector of {self.size} numbers, found shape {vector.shape}.")
        self.merge(Partial(0, position, vector.astype(np.float64)))

    def skip(self, position: int) -> None:
        """Record that a position contributes nothing."""
        self.merge(Partial(0, position, None))

    def merge(self, part: Partial) -> None:
        """Take the sum over an aligned run of positions. Its array is used in place: it belongs to this sum from now on."""
        level, index, total = part.level, part.index, part.total
        first, last = index << level, min((index + 1) << level, self.count)
        if index < 0 or first >= self.count:
            raise InvalidInput(f"Position {first} is outside a cohort of {self.count}.")
        self._refuse_twice(level, index)
        self._taken += last - first
        while (level, index ^ 1) in self._nodes:
            sibling = self._nodes.pop((level, index ^ 1))
            total = _plus(sibling, total) if index & 1 else _plus(total, sibling)
            level, index = level + 1, index >> 1
        self._nodes[level, index] = total

    def finish(self) -> Total:
        """The [d] total. Raises ProtocolAbort where a position is unaccounted for."""
        if self._taken != self.count:
            raise ProtocolAbort(f"Only {self._taken} of {self.count} positions were added or skipped; no sum is formed.")
        total = self._join(list(self._nodes))
        return np.zeros(self.size) if total is None else total

    def take(self, level: int, index: int) -> Partial:
        """Remove and return the sum over one aligned run whose positions are all in, to be merged elsewhere."""
        inside = [(lower, at) for lower, at in self._nodes if lower <= level and at >> (level - lower) == index]
        return Partial(level, index, self._join(inside))

    def _join(self, keys: list[tuple[int, int]]) -> Total | None:
        # What remains of a run are the aligned runs of the binary form of its length; the tree joins them from the right.
        total: Total | None = None
        for key in sorted(keys, key=lambda key: key[1] << key[0], reverse=True):
            total = _plus(self._nodes.pop(key), total)
        return total

    def _refuse_twice(self, level: int, index: int) -> None:
        for above in range(level, max(self.count.bit_length() + 1, level + 1)):
            if (above, index >> (above - level)) in self._nodes:
                raise ProtocolAbort(f"Position {index << level} was given twice; a term is summed once.")
        for below, at in self._nodes:
            if below < level and at >> (level - below) == index:
                raise ProtocolAbort(f"Position {at << below} was given twice; a term is summed once.")


def _plus(left: Total | None, right: Total | None) -> Total | None:
    if left is None:
        return right
    if right is None:
        return left
    return np.add(left, right, out=left)
