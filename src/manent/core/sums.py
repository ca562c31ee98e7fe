"""The sum of a cohort's vectors along one fixed binary tree.

Floating-point addition is not associative. The tree depends only on the positions in the cohort's roster, so the
result has the same bits for any number of workers and any order of arrival. Memory is O(d log n) when terms come in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.vectors import Array

Number = type[np.float64] | type[np.int64]
Total = Array  # float64[d]; int64[d] where the terms are whole numbers


@dataclass(frozen=True)
class Partial:
    """The sum over the positions [index * 2**level, (index + 1) * 2**level); `total` None where none of them answered."""

    level: int
    index: int
    total: Total | None


class TreeSum:
    """Sum of at most `count` vectors of `size` numbers, in float64; or exactly in int64, for whole numbers that cannot overflow.

    `add`, `skip` and `merge` may come in any order; each position once. `finish` needs every position.
    """

    def __init__(self, size: int, count: int, dtype: Number = np.float64) -> None:
        self.size, self.count, self.dtype = size, count, dtype
        self._nodes: dict[tuple[int, int], Total | None] = {}
        self._taken = 0
        self._spare: list[Total] = []  # buffers to use again: fresh pages cost more than the addition

    def add(self, position: int, vector: Array) -> None:
        """Add the [d] vector of one position. It is only read."""
        self._place(0, position, vector, owned=False)

    def skip(self, position: int) -> None:
        """Record that a position contributes nothing."""
        self._place(0, position, None, owned=True)

    def merge(self, part: Partial) -> None:
        """Take the sum over an aligned run of positions. Its array is only read."""
        self._place(part.level, part.index, part.total, owned=part.total is None)

    def _place(self, level: int, index: int, total: Array | None, owned: bool) -> None:
        """Take in the sum of a run, and join what became whole. An array not owned is only read, and copied if it must stay."""
        if total is not None and total.shape != (self.size,):
            raise InvalidInput(f"Expected a vector of {self.size} numbers, found shape {total.shape}.")
        first = index << level
        if index < 0 or first >= self.count:
            raise InvalidInput(f"Position {first} is outside a cohort of {self.count}.")
        self._refuse_twice(level, index)
        self._taken += self._width(level, index)
        while (level, index ^ 1) in self._nodes:
            sibling = self._nodes.pop((level, index ^ 1))
            if owned or sibling is None or total is None:
                total = self._plus(sibling, total) if index & 1 else self._plus(total, sibling)
            else:
                total, owned = np.add(sibling, total, out=sibling), True  # a sum of two has the same bits in either order
            level, index = level + 1, index >> 1
        if not owned and total is not None:
            kept: Total = self._spare.pop() if self._spare else np.empty(self.size, self.dtype)
            np.copyto(kept, total)
            total = kept
        self._nodes[level, index] = total

    def finish(self) -> Total:
        """The [d] total, once. Raises ProtocolAbort where a position is unaccounted for."""
        if self._taken != self.count:
            raise ProtocolAbort(f"Only {self._taken} of {self.count} positions were added or skipped; no sum is formed.")
        total, self._taken = self._join(list(self._nodes)), 0
        return np.zeros(self.size, self.dtype) if total is None else total

    def take(self, level: int, index: int, out: Total | None = None) -> Partial:
        """Remove and return the sum over one aligned run, to be merged elsewhere; copied into `out` where given.

        Raises ProtocolAbort where positions of the run are missing, or summed with others already.
        """
        inside = [(lower, at) for lower, at in self._nodes if lower <= level and at >> (level - lower) == index]
        found, width = sum(self._width(*key) for key in inside), self._width(level, index)
        if found != width:
            raise ProtocolAbort(f"Run {index} of level {level} has {found} of its {width} positions; no sum of it is formed.")
        self._taken -= width
        total = self._join(inside)
        if total is None or out is None:
            return Partial(level, index, total)
        np.copyto(out, total)
        self._spare.append(total)
        return Partial(level, index, out)

    def _width(self, level: int, index: int) -> int:
        """How many of a run's positions are in the cohort: all, but for the last run, which may be cut short."""
        return min((index + 1) << level, self.count) - (index << level)

    def _join(self, keys: list[tuple[int, int]]) -> Total | None:
        # What remains of a run are the aligned runs of the binary form of its length; the tree joins them from the right.
        total: Total | None = None
        for key in sorted(keys, key=lambda key: key[1] << key[0], reverse=True):
            total = self._plus(self._nodes.pop(key), total)
        return total

    def _refuse_twice(self, level: int, index: int) -> None:
        for above in range(level, max(self.count.bit_length() + 1, level + 1)):
            if (above, index >> (above - level)) in self._nodes:
                raise ProtocolAbort(f"Position {index << level} was given twice; a term is summed once.")
        for below, at in self._nodes:
            if below < level and at >> (level - below) == index:
                raise ProtocolAbort(f"Position {at << below} was given twice; a term is summed once.")

    def _plus(self, left: Total | None, right: Total | None) -> Total | None:
        if left is None:
            return right
        if right is None:
            return left
        if len(self._nodes) + len(self._spare) <= self.count.bit_length():
            self._spare.append(right)
        return np.add(left, right, out=left)
