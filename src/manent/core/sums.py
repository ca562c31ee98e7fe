"""The sum of a cohort's vectors along one fixed binary tree.

Floating-point addition is not associative, so the order of additions decides the last bits. Here it depends only on each
client's position in the cohort, never on the number of workers or the order of arrival: the total has the same bits every time.
Memory is O(d log n) when the vectors come in order of position.
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
    """The sum over one aligned run of positions: from index * 2**level up to, but without, (index + 1) * 2**level.

    Attributes:
        level: log2 of the run's length.
        index: which run of this length, from 0.
        total: [d], or None where nobody in the run answered.
    """

    level: int
    index: int
    total: Total | None


class TreeSum:
    """The sum of at most `count` vectors of `size` numbers each, in float64, or exactly in int64 where it cannot overflow.

    Call `add`, `skip` or `merge` in any order, so that every position from 0 to count - 1 is given exactly once; then `finish`.
    All three raise InvalidInput for a vector of another size or a position outside the cohort, and ProtocolAbort for a position
    that was given before.
    """

    def __init__(self, size: int, count: int, dtype: Number = np.float64) -> None:
        self.size, self.count, self.dtype = size, count, dtype
        self._nodes: dict[tuple[int, int], Total | None] = {}
        self._taken = 0
        self._spare: list[Total] = []  # buffers for reuse: getting fresh memory takes longer than the addition

    def add(self, position: int, vector: Array) -> None:
        """Adds the vector [d] of one position. The vector is only read, never kept."""
        self._place(0, position, vector, owned=False)

    def skip(self, position: int) -> None:
        """Records that a position contributes nothing."""
        self._place(0, position, None, owned=True)

    def merge(self, part: Partial) -> None:
        """Adds the sum over an aligned run of positions. Its array is only read, never kept."""
        self._place(part.level, part.index, part.total, owned=part.total is None)

    def _place(self, level: int, index: int, total: Array | None, owned: bool) -> None:
        """Adds the sum of a run, and joins it with its neighbours where a longer run is complete.

        Args:
            owned: whether the array may be changed and kept. If not, it is copied before it is kept.
        """
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
        """The total [d]; zeros where nobody answered. It can be taken once. Raises ProtocolAbort where a position is missing."""
        if self._taken != self.count:
            raise ProtocolAbort(f"Only {self._taken} of {self.count} positions were added or skipped; no sum is formed.")
        total, self._taken = self._join(list(self._nodes)), 0
        return np.zeros(self.size, self.dtype) if total is None else total

    def take(self, level: int, index: int, out: Total | None = None) -> Partial:
        """Removes the sum over one aligned run and returns it, to be merged into another TreeSum.

        Args:
            level, index: the run; see `Partial`.
            out: [d], an array to copy the sum into, or None to hand over the own one.

        Raises ProtocolAbort where positions of the run are missing, or already summed with positions outside it.
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
        """How many positions of a run are in the cohort. The last run may reach beyond the cohort's end."""
        return min((index + 1) << level, self.count) - (index << level)

    def _join(self, keys: list[tuple[int, int]]) -> Total | None:
        # The pieces left have lengths that are the binary digits of the run's length. The tree joins them from the right.
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
