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
from manent.layers.reach import Reach

Rounding = Literal["stochastic", "towards_zero"]
FINE = 1 << 24
"""How many steps of the default grid make the norm bound. Rounding towards zero then moves nothing that float32 would show."""
_MOST = 1 << 26  # most steps to the norm bound: squares of such norms, and their sums, are exact in float64
_TRIES = 200  # how often a vector is rounded before it is scaled down
_SMALL = 2.0**-900  # its steps are normal numbers of float64
_HUGE = 2.0**30  # beyond any coordinate within a bound
_USEFUL = 1 << 10  # steps to the norm bound of a grid that is fine enough for most, for messages
_HALVINGS = 20  # of the logarithm of the grid, whose range is 26: to 1 in 60,000
_DIGITS = 1 << 12
_WORDS = 8  # numbers of 16 bits that make up a seed: float32, as all that clients are sent, keeps them exactly


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
    | NaN or infinity in a vector | the client sends zeros |
    | `bits`, but no grid on which the sum fits, or a `grid` on which it does not | Refused, with the cure |
    | `bits`, and noise whose law is not known | Refused |
    | a sum beyond 2**bits | it wraps around, and nothing shows it: accuracy suffers, privacy does not. See `failure` |
    | no `bits` | no sum wraps around |

    **With `bits`, a sum comes back right but for a stated probability.** `failure` bounds the chance that any coordinate of any
    sum of the whole study wraps around, by proved tails (see `layers.reach`) of what is random: the noise, who is drawn by
    independent coins, and the signs of the rotation. The server draws the signs of each sum after the sum before it; those of
    the first are fixed. All are public. So data do not depend on them, unless made up with the first ones in view. Clients that
    lie are not covered.

    Attributes:
        grid: what one step is worth, > 0. None takes the norm bound / 2^24, or the finest that `bits` allows.
        bits: from 4 to 60, for a sum modulo 2**bits. None forms the sum without a modulus.
        rotation: whether to rotate first (blocks of a randomised Hadamard transform). That spreads a vector's energy evenly over
            its coordinates, so that fewer bits are needed.
        rounding: "towards_zero" never enlarges a norm. "stochastic" is unbiased, but for drawing again where a norm is above its
            bound (Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
            Aggregation", Algorithm 1). None takes the first on the default grid, and the second on a coarser one.
        failure: with `bits`, the probability that any total of the study comes back wrong, at most; from 2^-64 to below 1.

    Raises:
        InvalidInput: for a value out of range.
    """

    grid: float | None = None
    bits: int | None = None
    rotation: bool = False
    rounding: Rounding | None = None
    failure: float = 2.0**-40
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
        validate.fraction("Discretize", "failure", self.failure, zero=False, one=False)
        if self.failure < 2.0**-64:
            raise InvalidInput(f"Discretize expects failure >= 2^-64, which is never; found {self.failure!r}. Leave it out.")

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """The stage, which gives whole numbers of a bounded norm.

        Raises Refused for a wrong order, a norm that nothing bounds, a grid that does not fit the norm, noise of an unknown law
        with `bits`, or a rotation of vectors whose sum of sizes is bounded, as a rotation does not keep that.
        """
        refuse_order("Discretize", form)
        if form.l2 is None:
            raise Refused("Nothing bounds a client's vector before Discretize. Put Clip(norm) or AdaptiveClip() first.")
        if not _SMALL <= form.l2 <= 1 / _SMALL:
            raise Refused(f"A norm bound of {form.l2:g} is beyond what Discretize puts on a grid. Use another unit.")
        if self.rotation and form.l1 is not None:
            raise Refused("A rotation keeps the Euclidean norm only. Use rotation=False with Clip(order=1), or order=2.")
        size = rotation.padded(form.layout.size) if self.rotation else form.layout.size
        layout = Layout((Block("rotated", (Entry("rotated", (size,)),)),)) if self.rotation else form.layout
        block = rotation.block(form.layout.size) if self.rotation else None
        ring = _Ring(Reach(gathering, size, block, self.failure), self._stochastic)
        grid, fault = self._grid(form.l2, ring)
        limit = self._limit(form.l2, grid, ring)
        first = limit if form.l1 is not None else None
        given = Form(layout, grid, l1=first, l2=limit, largest=math.floor(limit), bits=self.bits, fault=fault)
        return DiscretizeStage(given, form.layout.size, self.rotation, self._stochastic, ring.reach)

    @property
    def _stochastic(self) -> bool:
        return self.rounding == "stochastic" or (self.rounding is None and (self.grid or self.bits) is not None)

    def _grid(self, bound: float, ring: _Ring) -> tuple[float, str | None]:
        """What one step is worth, and why `bits` cannot hold the sum, or None."""
        if self.bits is None:
            return self.grid or bound / FINE, None
        if self.grid is not None:
            self._limit(bound, self.grid, ring)
        grid = self.grid or ring.finest(bound, self.bits) or bound
        if ring.bits(bound, grid) <= self.bits:
            return grid, None
        if not ring.reach.known:
            return grid, (
                "Discretize(bits=...) must know how far the noise in a total reaches, and this noise layer does not tell. Leave "
                "bits out, or give the layer `draws` (see core.layers.LayerTraits)."
            )
        on, cure = (f" on a grid of {grid:g}", ", or a coarser grid") if self.grid is not None else ("", "")
        turn = "" if self.rotation else ", or rotation=True"
        return grid, (
            f"{self.bits} bits cannot hold a sum of {ring.reach.clients:,} vectors and its noise{on}. "
            f"Give bits={ring.bits(bound, min(grid, bound / _USEFUL))}{cure}{turn}."
        )

    def _limit(self, bound: float, grid: float, ring: _Ring) -> float:
        """The norm bound in steps of the grid, with what stochastic rounding may add to it."""
        steps = bound / grid
        if not 1 <= steps <= _MOST:
            raise Refused(f"The norm bound {bound:g} is {steps:.3g} steps of the grid {grid:g}; expected 1 to {_MOST:,} steps.")
        return ring.limit(steps)


@dataclass(frozen=True)
class _Ring:
    """Which ring holds the sum on a grid, and which grid a ring allows.

    Attributes:
        reach: how far a sum reaches.
        stochastic: whether rounding may enlarge a norm.
    """

    reach: Reach
    stochastic: bool

    def limit(self, steps: float) -> float:
        """The norm bound of whole numbers, where that of the vector is so many steps."""
        return rounded_norm(steps, self.reach.size) if self.stochastic else math.floor(steps)

    def bits(self, bound: float, grid: float) -> float:
        """The fewest bits that hold the sum; infinite where none do."""
        steps = self.reach.steps(bound / grid, self.limit(bound / grid))
        return math.ceil(steps).bit_length() + 1 if math.isfinite(steps) else math.inf

    def finest(self, bound: float, bits: int) -> float | None:
        """The finest grid on which so many bits hold the sum, but for a thousandth; None where there is none.

        It is of 12 binary digits, so that all parties find the same one although their logarithms may differ.
        """
        low, high = math.log2(bound / _MOST), math.log2(bound)
        if self.bits(bound, bound) > bits:
            return None
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.bits(bound, 2.0**middle) <= bits else (middle, high)
        digits, exponent = math.frexp(2.0**high)
        return min(math.ldexp(math.ceil(digits * _DIGITS) / _DIGITS, exponent), bound)


@dataclass(frozen=True)
class DiscretizeStage(Stage):
    """See `Discretize`.

    State, where a rotated sum has a modulus: "seed", float32[8], whole numbers of 16 bits that tell the signs of the next sum.

    Attributes:
        size: d, before the rotation.
        reach: how far a sum reaches.
    """

    size: int
    rotation: bool
    stochastic: bool
    reach: Reach

    @property
    def _draws_signs(self) -> bool:
        # Only where a modulus relies on them. Noise that is correlated between rounds cancels only under equal rotations.
        return self.rotation and self.form.bits is not None

    def init(self) -> Arrays:
        """The seed of the first signs, which is fixed."""
        return {"seed": np.zeros(_WORDS, np.float32)} if self._draws_signs else {}

    def sends(self, state: Arrays) -> Arrays:
        """Clients need the seed."""
        return dict(state)

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        """[k, d] to int64[k, d'], each within the norm bound of the form. Raises InvalidInput for a seed that is none."""
        if self.rotation:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite becomes zeros below
                vectors = rotation.rotate(vectors, self._seed(sent))
        return together([self._whole(row, random) for row in vectors], self.form.layout.size)

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        """int64[d'], modulo 2**bits where there is a modulus, to float64[d] in the unit of the vectors; and the next seed."""
        if self.form.bits is not None:
            half = 1 << (self.form.bits - 1)
            total = ((total + half) & ((1 << self.form.bits) - 1)) - half
        real = total.astype(np.float64) * (self.form.grid or 0.0)
        if self.rotation:
            real = rotation.unrotate(real, self.size, self._seed(state))
        if self._draws_signs:
            state = {"seed": np.frombuffer(random.bytes(2 * _WORDS), "<u2").astype(np.float32)}
        return real, state

    def not_covered(self) -> tuple[str, ...]:
        """How likely a total comes back wrong, where that may be."""
        if self.form.bits is None or self.reach.certain:
            return ()
        odds = math.floor(-math.log2(self.reach.failure))
        return (
            f"Totals are formed modulo 2^{self.form.bits}. One that wraps around comes back wrong, and nothing shows it: the "
            f"probability of any in the whole study is at most 2^-{odds}, unless clients lie. Privacy does not suffer from it.",
        )

    def _seed(self, arrays: Arrays) -> int:
        """The seed of the signs. Raises InvalidInput for what is none."""
        if not self._draws_signs:
            return 0
        words = np.asarray(arrays.get("seed", ()), np.float64)
        if words.shape != (_WORDS,) or not ((words >= 0) & (words < 2**16) & (words == np.floor(words))).all():
            raise InvalidInput(
                f"The signs of a rotation follow from a seed of {_WORDS} whole numbers below 2^16, which the server sends; found "
                f"{validate.shown(words.tolist())}. Pass on what the stage sends."
            )
        return int.from_bytes(words.astype("<u2").tobytes(), "little")

    def _whole(self, row: Array, random: PrivateRandom) -> Array:
        """int64[d'] within the norm. A vector that is too long, by rounding or because nothing clipped it, is scaled down.

        One that is not finite, as a layer of one's own may give, becomes zeros.
        """
        scale, whole = 1 / (self.form.grid or 1.0), np.zeros(len(row), np.int64)
        if not np.isfinite(row).all():
            return whole
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
