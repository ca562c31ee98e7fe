"""Tables for exact sampling of an integer law: most draws are one look-up, some need a comparison, few need more random bits.

A law is given by its mass p(k), known up to a factor, which rises up to its mode and falls after it. From the mode outwards, the
integers are cut into strips of width w = 2^shift. For a constant c > 0, the unit interval is divided like this:

* Each strip has n of 65,536 equal buckets, with n / 65536 <= c w min p. They return an integer of the strip, uniformly.
* The rest of the buckets have total measure r. In them, a strip is drawn with probability q / 2^64, an integer k of it is
  proposed uniformly, and accepted with probability a(k) = w (c p(k) - n / (65536 w)) / (r q / 2^64).
* After a rejection, the draw starts again.

So one attempt returns k with probability n / (65536 w) + r q / (2^64 w) a(k) = c p(k), whatever n, q and c are, as long as
0 <= a <= 1. Therefore n, q and c need not be computed exactly: floating-point bounds on p, widened by their proven error, give
them. Only "U < a(k)?" must be decided exactly. Where U and a(k) differ by more than a proven bound on the error, float64 decides
it. Otherwise it is decided from 256 bits of U, and p(k) in decimal arithmetic of as many bits, or from more.

Given uniform words, the law drawn is therefore exactly p restricted to the integers kept. Its total variation distance from p is
the mass left out, which each law here keeps below `STATISTICAL_DISTANCE`.

The time of a draw depends on its value (Jin et al. 2022, "Are we there yet? Timing and floating-point attacks on differential
privacy systems"). This module does not protect against somebody who can time single draws.
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
"""A bound on the total variation distance between one draw and the law it is named for. It adds up over draws: a mechanism that
is (epsilon, delta)-private with m ideal draws is (epsilon, delta + (1 + e^epsilon) m STATISTICAL_DISTANCE)-private with these."""

BUCKETS = 1 << 16
FINEST = 64  # the fewest strips a scale (about a standard deviation) is cut into, unless a strip is a single integer


class Law(Protocol):
    """A law on the integers, known up to a factor. It is hashable, and its table is cached by it."""

    def __hash__(self) -> int: ...

    @property
    def scale(self) -> float:
        """About a standard deviation, > 0."""
        ...

    @property
    def mode(self) -> int:
        """Where the mass is largest. The mass does not fall before it, and does not rise after it."""
        ...

    @property
    def support(self) -> tuple[int, int]:
        """The least and the largest integer kept, at most 2^14 scales apart. The mass outside is below `STATISTICAL_DISTANCE`."""
        ...

    def mass(self, k: NDArray[np.int64]) -> tuple[Array, Array | float]:
        """float64 mass m of each k, and an e <= 2^-10: the true mass is within e m (and 2^-1000, for underflow) of m."""
        ...

    def exact(self, k: int, bits: int) -> Fraction:
        """The mass of k within a relative error of 2^-bits."""
        ...


@dataclass(frozen=True, eq=False)
class Sampler:
    """The table of one law. Build it with `sampler`, which caches. The letters are those of the module's text.

    Attributes:
        law: what is drawn.
        shift: log2 of the width of a strip.
        first: strip s holds 2^shift integers, from mode + (first + s) 2^shift on.
        factor: the constant c.
        buckets: int64[strips], each strip's n.
        weights: uint64[strips], each strip's q.
    """

    law: Law
    shift: int
    first: int
    factor: float
    buckets: NDArray[np.int64]
    weights: NDArray[np.uint64]

    @cached_property
    def sure(self) -> int:
        """How many of the 65,536 buckets return at once."""
        return int(self.buckets.sum())

    @cached_property
    def _strip(self) -> NDArray[np.int16]:
        """The strip of each bucket; 0 for buckets that do not return at once."""
        strips = np.zeros(BUCKETS, np.int16)
        strips[: self.sure] = np.repeat(np.arange(self.buckets.size) + self.first, self.buckets)
        return strips

    @cached_property
    def _cumulative(self) -> NDArray[np.uint64]:
        return np.cumsum(self.weights, dtype=np.uint64)

    @cached_property
    def _line(self) -> tuple[Array, Array]:
        """Slope and offset of a(k) = slope p(k) - offset, for each strip, right to a few units in the last place."""
        rest = (BUCKETS - self.sure) * (self.weights * 2.0**-64)
        return BUCKETS * (self.factor * 2.0**self.shift) / rest, self.buckets / rest

    def draw(self, out: NDArray[np.int64], random: PrivateRandom) -> None:
        """Fills `out`, int64[n], with independent draws."""
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
        """Replaces each strip by an integer of it, drawn uniformly, in place."""
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
        """bool[n], whether each proposed k of its strip is accepted: U < a(k), for a fresh uniform U each."""
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
        """A lower and an upper bound on a(k), from the mass to a relative error of 2^-bits."""
        rest = (BUCKETS - self.sure) * Fraction(int(self.weights[strip]), 1 << 64)
        part = BUCKETS * (1 << self.shift) * Fraction(self.factor) * self.law.exact(k, bits) / rest
        centre, radius = part - int(self.buckets[strip]) / rest, part / (1 << bits)
        return centre - radius, centre + radius

    def decide(self, strip: int, k: int, level: int, random: PrivateRandom) -> bool:
        """Whether U < a(k), exactly, where `level` is the first 64 bits of U."""
        return is_below(lambda bits: self.acceptance(strip, k, bits + 64), level, 64, random)


@lru_cache(maxsize=16)
def sampler(law: Law) -> Sampler:
    """The table of a law: at most about 1 MiB, made in a few milliseconds, and kept for the 16 laws used last."""
    shift = max(0, int(np.floor(np.log2(law.scale / FINEST))))
    low, high = law.support
    first, last = (low - law.mode) >> shift, (high - law.mode) >> shift
    start = law.mode + (np.arange(first, last + 1) << shift)
    # No strip has the mode inside it, so its ends have its smallest and its largest mass.
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
