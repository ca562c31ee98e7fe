"""From real numbers to whole ones, whose sensitivity is proved exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from manent.accounting import rounded_norm
from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.core.layers import Form, Gathering, Place, Stage
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays, Block, Entry, Layout
from manent.crypto.samplers.chance import stochastic_round
from manent.layers import rotation
from manent.layers.clip import CHUNK, norm, together
from manent.layers.order import refuse_order

Rounding = Literal["stochastic", "towards_zero"]
FINE = 1 << 24
"""How many steps of the default grid make the norm bound. Rounding towards zero then moves nothing that float32 would show."""
_MOST = 1 << 26  # most steps to the norm bound: squares of such norms, and their sums, are exact in float64
_TRIES = 200  # how often a vector is rounded before it is scaled down
_HUGE = 2.0**30  # beyond any coordinate within a bound


@final
@dataclass(frozen=True)
class Discretize:
    """Whole multiples of a public grid, within a norm that is checked in exact arithmetic.

    Sensitivity is that of whole numbers, so neither rounding nor the order of a sum can exceed it (Casacuberta, Shoup, Wagner,
    Vadhan 2022, "Widespread Underestimation of Sensitivity in Differentially Private Libraries").

    | case | what holds |
    |---|---|
    | guarantee | none by itself: no client's whole numbers exceed the norm bound of the form, however they were rounded |
    | no clip before it | Refused |
    | a vector that is too long all the same | it is scaled down until its whole numbers are within the bound |
    | NaN or infinity in a vector | does not come here: the clip before it sends zeros |
    | `bits`, but no grid on which the sum fits | Refused, with the cure |
    | a sum beyond 2**bits, by rare noise | it wraps around: accuracy suffers, privacy does not |

    Attributes:
        grid: what one step is worth, > 0. None takes the norm bound / 2^24, or what `bits` allows.
        bits: from 4 to 60, for a sum modulo 2**bits: the grid is made so coarse that the sum and four deviations of its noise
            fit. None forms the sum without a modulus.
        rotation: whether to rotate first (blocks of a randomised Hadamard transform). That spreads a vector's energy evenly over
            its coordinates, so that fewer bits are needed.
        rounding: "towards_zero" never enlarges a norm. "stochastic" is unbiased, and bounds the norm by drawing again (Kairouz,
            Liu, Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation",
            Algorithm 1). None takes the first on the default grid, and the second on a coarser one.

    Raises:
        InvalidInput: for a value out of range.
    """

    grid: float | None = None
    bits: int | None = None
    rotation: bool = False
    rounding: Rounding | None = None
    place: ClassVar[Place] = "grid"

    def __post_init__(self) -> None:
        if self.grid is not None:
            validate.sized("Discretize", "grid", self.grid, " or None")
        if self.bits is not None:
            validate.count("Discretize", "bits", self.bits, " up to 60, or None", minimum=4)
            if self.bits > 60:
                raise InvalidInput(
                    f"Discretize expects bits <= 60; found {self.bits!r}. Give a whole number from 4 to 60, or None."
                )
        validate.one_of("Discretize", "rounding", self.rounding, (None, "stochastic", "towards_zero"))

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """The stage, which gives whole numbers of a bounded norm.

        Raises Refused for a wrong order, a norm that nothing bounds, a grid that does not fit the norm, or a rotation of vectors
        whose sum of sizes is bounded, as a rotation does not keep that.
        """
        refuse_order("Discretize", form)
        if form.l2 is None:
            raise Refused("Nothing bounds a client's vector before Discretize. Put Clip(norm) or AdaptiveClip() first.")
        if self.rotation and form.l1 is not None:
            raise Refused("A rotation keeps the Euclidean norm only. Use rotation=False with Clip(order=1), or order=2.")
        size = rotation.padded(form.layout.size) if self.rotation else form.layout.size
        layout = Layout((Block("rotated", (Entry("rotated", (size,)),)),)) if self.rotation else form.layout
        stochastic = self.rounding == "stochastic" or (self.rounding is None and (self.grid or self.bits) is not None)
        grid, fault = self._grid(form.l2, size, stochastic, gathering)
        limit = self._limit(form.l2, grid, size, stochastic)
        first = limit if form.l1 is not None else None
        given = Form(layout, grid, l1=first, l2=limit, largest=math.floor(limit), bits=self.bits, fault=fault)
        return DiscretizeStage(given, form.layout.size, self.rotation, stochastic)

    def _grid(self, bound: float, size: int, stochastic: bool, gathering: Gathering) -> tuple[float, str | None]:
        """What one step is worth, and why `bits` cannot hold the sum, or None."""
        if self.grid is not None or self.bits is None:
            return self.grid or bound / FINE, None
        fitting = self._coarse(bound, size, stochastic, gathering)
        if fitting is not None:
            return fitting, None
        n = gathering.expected
        return bound, f"{self.bits} bits cannot hold a sum of {n:g} vectors and its noise. Give more bits, or rotation=True."

    def _limit(self, bound: float, grid: float, size: int, stochastic: bool) -> float:
        """The norm bound in steps of the grid, with what stochastic rounding may add to it."""
        steps = bound / grid
        if not 1 <= steps <= _MOST:
            raise Refused(f"The norm bound {bound:g} is {steps:.3g} steps of the grid {grid:g}; expected 1 to {_MOST:,} steps.")
        return rounded_norm(steps, size) if stochastic else math.floor(steps)

    def _coarse(self, bound: float, size: int, stochastic: bool, gathering: Gathering) -> float | None:
        """The finest grid on which 2**bits steps hold the sum and four deviations of noise; None where there is none."""
        n, z = gathering.expected, gathering.noise_multiplier or 0.0
        grid = bound / _MOST
        for _ in range(200):
            noise = z * (rounded_norm(bound / grid, size) * grid if stochastic else bound)
            # A rotated sum is about normal in each coordinate, with the energy of n aligned vectors at worst.
            reach = 4 * math.hypot(n * bound / math.sqrt(size), noise) if self.rotation else n * bound + 4 * noise
            wanted = max(2 * reach / 2 ** (self.bits or 60), bound / _MOST)
            if wanted > bound:
                break
            if wanted <= grid:
                return grid
            grid = wanted * (1 + 1e-6)
        return None


@dataclass(frozen=True)
class DiscretizeStage(Stage):
    """See `Discretize`.

    Attributes:
        size: d, before the rotation.
    """

    size: int
    rotation: bool
    stochastic: bool

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        """[k, d] to int64[k, d'], each within the norm bound of the form."""
        if self.rotation:
            vectors = rotation.rotate(vectors)
        return together([self._whole(row, random) for row in vectors], self.form.layout.size)

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        """int64[d'], modulo 2**bits where there is a modulus, to float64[d] in the unit of the vectors."""
        if self.form.bits is not None:
            half = 1 << (self.form.bits - 1)
            total = ((total + half) & ((1 << self.form.bits) - 1)) - half
        real = total.astype(np.float64) * (self.form.grid or 0.0)
        return (rotation.unrotate(real, self.size) if self.rotation else real), state

    def _whole(self, row: Array, random: PrivateRandom) -> Array:
        """int64[d'] within the norm. A vector that is too long, by rounding or because nothing clipped it, is scaled down."""
        scale, whole = 1 / (self.form.grid or 1.0), np.empty(len(row), np.int64)
        for _ in range(_TRIES):
            found = self._round(row, scale, whole, random if self.stochastic else None)
            if found <= 1:
                return whole
            if not self.stochastic:
                scale *= min(1 - 2.0**-40, 1 / found)
        # Only a vector that was too long before stochastic rounding comes here; any other with probability beta^200 at most.
        longest = max(norm(np.multiply(row, scale, dtype=np.float64)) / (self.form.l2 or 1.0), 1.0)
        return whole if self._round(row, scale / longest * (1 - 2.0**-20), whole, None) <= 1 else np.zeros_like(whole)

    def _round(self, row: Array, scale: float, whole: Array, random: PrivateRandom | None) -> float:
        """Rounds row * scale into `whole`: towards zero, or with a source at random. Returns its norm relative to the bound.

        The result is at most 1 only if the norm is within the bound exactly. Float64 adds whole numbers exactly, in any order, as
        long as the total is at most 2^53. The square of a bound is below that, and a total beyond 2^53 stays beyond. A norm that
        is below the bound by less than 2^-49 of it may be called too long.
        """
        total, buffer = 0.0, np.empty(min(CHUNK, len(row)))
        for start in range(0, len(row), CHUNK):
            part = slice(start, start + CHUNK)
            numbers = buffer[: len(row[part])]
            np.multiply(row[part], scale, out=numbers)
            if random is None:
                np.trunc(numbers, out=numbers)
            else:
                np.copyto(numbers, stochastic_round(np.clip(numbers, -_HUGE, _HUGE), random))
            total += float(np.abs(numbers).sum() if self.form.l1 is not None else np.dot(numbers, numbers))
            if total < _HUGE**2:
                np.copyto(whole[part], numbers, casting="unsafe")
        if not math.isfinite(total):
            return math.inf
        found = total / self.form.l1 if self.form.l1 is not None else math.sqrt(total) / (self.form.l2 or 1.0)
        return found * (1 + 2.0**-49)
