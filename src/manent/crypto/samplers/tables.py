"""Exact sampling of an integer law: a table, one comparison in floating point, and more random bits where that proves nothing.

A law is given by a mass p(k), known up to a factor, that rises to its mode and falls after it. The integers are cut from
the mode outwards into strips of w = 2^shift. With a constant c > 0 the unit interval is laid out as

* for every strip, n of 65,536 equal buckets, n / 65536 <= c w min p: these return an integer of the strip, uniform in it;
* the rest of the buckets, of total measure r, in which one strip is drawn with probability q / 2^64, an integer k uniform
  in it is proposed, and accepted with probability a(k) = w (c p(k) - n / (65536 w)) / (r q / 2^64);
* what is rejected starts again.

Hence one attempt returns k with probability n / (65536 w) + r q / (2^64 w) a(k) = c p(k), whatever n, q and c are, provided
that 0 <= a <= 1. So n, q and c are integers and a float that nobody needs to compute exactly: float bounds on p, widened by
their proven error, give them. Only "U < a(k)?" must be decided exactly. It is, in float64, where U and a(k) are further apart
than a proven bound on the error, and otherwise from U with 256 bits and p(k) in decimal arithmetic to as many, or more.

The law drawn is therefore p restricted to the integers kept, exactly, given uniform words: its total variation distance from
p is the mass left out, which every law here keeps below `STATISTICAL_DISTANCE`.

The time taken depends on the values drawn (Jin et al. 2022, "Are we there yet? Timing and floating-point attacks on
differential privacy systems"): somebody who can time single draws is outside of this module's protection.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array
from manent.crypto.bits import CHUNK, draw_bits, is_below

STATISTICAL_DISTANCE = 2.0**-160
"""Bound on the total variation distance of one draw from the law it is named for. It adds up over draws: a mechanism that is
(epsilon, delta)-private with m ideal draws is (epsilon, delta + (1 + e^epsilon) m STATISTICAL_DISTANCE)-private with these."""

BUCKETS = 1 << 16
FINEST = 64  # at least that many strips to one scale (about a standard deviation), unless a strip is one integer


class Law(Protocol):
    """A law on the integers, known up to a factor. Hashable: tables are cached by it."""

    def __hash__(self) -> int: ...

    @property
    def scale(self) -> float:
        """About a standard deviation, > 0."""
        ...

    @property
    def mode(self) -> int:
        """Where the mass is largest: it does not fall before it, nor rise after it."""
        ...

    @property
    def support(self) -> tuple[int, int]:
        """Least and largest integer kept; the mass outside is below `STATISTICAL_DISTANCE` of all. At most 2^14 scales."""
        ...

    def mass(self, k: NDArray[np.int64]) -> tuple[Array, Array | float]:
        """float64 mass m and e <= 2^-10, where the true mass is within e m (and 2^-1000, for underflow) of m."""
        ...

    def exact(self, k: int, bits: int) -> Fraction:
        """The same mass within a relative error of 2^-bits."""
        ...


@dataclass(frozen=True, eq=False)
class Sampler:
    """The table of one law (see the module). Build it with `sampler`, which caches.

    Attributes:
        law: what is drawn.
        shift: log2 of the width of a strip.
        first: strip s holds the integers mode + (first + s) 2^shift, ... .
        factor: c.
        buckets: int64[strips], n.
        weights: uint64[strips], q.
    """

    law: Law
    shift: int
    first: int
    factor: float
    buckets: NDArray[np.int64]
    weights: NDArray[np.uint64]

    @cached_property
    def sure(self) -> int:
        """Number of buckets that return at once."""
        return int(self.buckets.sum())

    @cached_property
    def _strip(self) -> NDArray[np.int16]:
        """Strip of each bucket; 0 for those that do not return at once."""
        strips = np.zeros(BUCKETS, np.int16)
        strips[: self.sure] = np.repeat(np.arange(self.buckets.size) + self.first, self.buckets)
        return strips

    @cached_property
    def _cumulative(self) -> NDArray[np.uint64]:
        return np.cumsum(self.weights, dtype=np.uint64)

    @cached_property
    def _line(self) -> tuple[Array, Array]:
        """a(k) = slope p(k) - offset, by strip; each within a few ulp."""
        rest = (BUCKETS - self.sure) * (self.weights * 2.0**-64)
        return BUCKETS * (self.factor * 2.0**self.shift) / rest, self.buckets / rest

    def draw(self, out: NDArray[np.int64], random: PrivateRandom) -> None:
        """Fills int64[n] with independent draws."""
        later = []
        for start in range(0, out.size, CHUNK):
            part = out[start : start + CHUNK]
            bucket = draw_bits(random, part.size, np.uint16)
            part[:] = self._strip.take(bucket)
            self._place(part, random)
            later.append(np.flatnonzero(bucket >= self.sure) + start)
        if later:
            self._finish(out, np.concatenate(later), random)

    def _place(self, strips: NDArray[np.int64], random: PrivateRandom) -> None:
        """Turns strips into integers, uniform in them, in place."""
        if self.shift:
            dtype = np.uint16 if self.shift <= 16 else np.uint32 if self.shift <= 32 else np.uint64
            within = draw_bits(random, strips.size, dtype) & dtype((1 << self.shift) - 1)
            np.left_shift(strips, self.shift, out=strips)
            np.add(strips, within.view(np.int64) if dtype is np.uint64 else within, out=strips)
        if self.law.mode:
            np.add(strips, self.law.mode, out=strips)

    def _finish(self, out: NDArray[np.int64], where: NDArray[np.int64], random: PrivateRandom) -> None:
        """Draws the places whose bucket did not return at once."""
        if not where.size:
            return
        strip = np.searchsorted(self._cumulative, random.words(where.size), side="right")
        inside = strip < self.weights.size
        strip, where_kept = strip[inside], where[inside]
        k = strip + self.first
        self._place(k, random)
        accepted = self.accept(strip, k, random)
        out[where_kept[accepted]] = k[accepted]
        again = np.concatenate([where[~inside], where_kept[~accepted]])
        if again.size:
            redrawn = np.empty(again.size, np.int64)
            self.draw(redrawn, random)
            out[again] = redrawn

    def accept(self, strip: Array, k: NDArray[np.int64], random: PrivateRandom) -> NDArray[np.bool_]:
        """bool[n]: whether each proposed k of each strip is accepted, U < a(k) for fresh uniform U."""
        slope, offset = (line[strip] for line in self._line)
        mass, error = self.law.mass(k)
        level = random.words(k.size)
        # U lies in [level, level + 1) / 2^64, and level loses 2^-54 in float64. Offset is at most about slope * mass, so
        # that the roundings of the four operations are below 2^-48 of that.
        band = slope * mass * (error + 2.0**-48) + 2.0**-50
        gap = slope * mass - offset - level * 2.0**-64
        accepted: NDArray[np.bool_] = gap > band
        for i in np.flatnonzero(np.abs(gap) <= band):
            accepted[i] = self.decide(int(strip[i]), int(k[i]), int(level[i]), random)
        return accepted

    def acceptance(self, strip: int, k: int, bits: int) -> tuple[Fraction, Fraction]:
        """Bounds on a(k), from the mass to a relative error of 2^-bits."""
        rest = (BUCKETS - self.sure) * Fraction(int(self.weights[strip]), 1 << 64)
        part = BUCKETS * (1 << self.shift) * Fraction(self.factor) * self.law.exact(k, bits) / rest
        centre, radius = part - int(self.buckets[strip]) / rest, part / (1 << bits)
        return centre - radius, centre + radius

    def decide(self, strip: int, k: int, level: int, random: PrivateRandom) -> bool:
        """Whether U < a(k), where `level` is the first 64 bits of U."""
        return is_below(lambda bits: self.acceptance(strip, k, bits + 64), level, 64, random)


@lru_cache(maxsize=16)
def sampler(law: Law) -> Sampler:
    """The table of a law: at most about 1 MiB, a few milliseconds."""
    shift = max(0, int(np.floor(np.log2(law.scale / FINEST))))
    low, high = law.support
    first, last = (low - law.mode) >> shift, (high - law.mode) >> shift
    start = law.mode + (np.arange(first, last + 1) << shift)
    # A strip does not hold the mode in its inside: its extreme masses are those of its ends.
    (left, left_error), (right, right_error) = law.mass(start), law.mass(start + (1 << shift) - 1)
    # 2^-40 is far above all rounding below.
    minimum = np.minimum(left * (1 - left_error - 2.0**-40), right * (1 - right_error - 2.0**-40))
    most = np.maximum(left * (1 + left_error + 2.0**-40), right * (1 + right_error + 2.0**-40))
    width = 2.0**shift
    # The slack of 2^-20 leaves room for the weights, which are rounded up; their sum stays below 2^64.
    factor = float((1 - 2.0**-20) / (width * most.sum()))
    buckets = np.floor(BUCKETS * factor * width * minimum).astype(np.int64)
    rest = BUCKETS - int(buckets.sum())
    share = (BUCKETS * factor * width * most - buckets) / rest
    weights = (np.floor(share * 2.0**62).astype(np.uint64) + np.uint64(1)) * np.uint64(4)
    return Sampler(law, shift, first, factor, buckets, weights)
