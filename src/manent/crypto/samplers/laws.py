"""The laws that are sampled: their mass in float64, with a bound on its error, and in decimal arithmetic to any precision.

The bounds assume that numpy's exp, log and log1p are right to 16 units in the last place (numpy claims fewer than 4), and that
exp and ln of `decimal` are correctly rounded, as its documentation says. A mass is known up to a constant factor of its law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from manent.core.vectors import Array

_SERIES_FROM = 8.0  # from this standard deviation on, the rounded Gaussian is computed by an expansion
_LARGE = 2000  # up to here, factorials are computed as integers


def _context(digits: float) -> Context:
    return Context(prec=math.ceil(digits) + 30, Emin=MIN_EMIN, Emax=MAX_EMAX)


def _digits(bits: int) -> float:
    return bits * math.log10(2)


def _decimal(value: Fraction, context: Context) -> Decimal:
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))


def _exp(power: Fraction, bits: int) -> Fraction:
    context = _context(_digits(bits) + math.log10(1 + abs(float(power))))
    return Fraction(context.exp(_decimal(power, context)))


@dataclass(frozen=True)
class DiscreteGaussian:
    """P(k) proportional to exp(-k^2 / 2 sigma^2) (Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential
    privacy").

    Kept: |k| <= 15.5 sigma. With m > 15.5 sigma the next integer, the mass beyond is at most
    2 e^(-m^2 / 2 sigma^2) (1 + sigma^2 / m) / max(1, sqrt(2 pi) sigma) < 2.1 e^-120.1 < 2^-170.
    """

    sigma: float

    mode = 0

    @property
    def scale(self) -> float:
        """About a standard deviation."""
        return self.sigma

    @property
    def support(self) -> tuple[int, int]:
        """The least and the largest integer kept."""
        bound = math.floor(15.5 * self.sigma)
        return -bound, bound

    def mass(self, k: NDArray[np.int64]) -> tuple[Array, float]:
        """float64 mass of each k, and a bound on its relative error."""
        x = k / self.sigma
        # x^2 / 2 < 122, with four roundings of 2^-53.
        return np.exp(-0.5 * x * x), 2.0**-40

    def exact(self, k: int, bits: int) -> Fraction:
        """The mass of k within a relative error of 2^-bits."""
        return _exp(-Fraction(k * k, 2) / Fraction(self.sigma) ** 2, bits)


@dataclass(frozen=True)
class DiscreteLaplace:
    """P(k) proportional to exp(-|k| / scale).

    Kept: |k| <= 116 scale; the mass beyond is below 2 e^-116 < 2^-166.
    """

    scale: float

    mode = 0

    @property
    def support(self) -> tuple[int, int]:
        """The least and the largest integer kept."""
        bound = math.floor(116 * self.scale)
        return -bound, bound

    def mass(self, k: NDArray[np.int64]) -> tuple[Array, float]:
        """float64 mass of each k, and a bound on its relative error."""
        return np.exp(-np.abs(k) / self.scale), 2.0**-40

    def exact(self, k: int, bits: int) -> Fraction:
        """The mass of k within a relative error of 2^-bits."""
        return _exp(-abs(k) / Fraction(self.scale), bits)


def _half_normal(z: Fraction, context: Context) -> Decimal:
    """The integral of exp(-t^2 / 2) over [0, z], e^(-z^2/2) (z + z^3/3 + z^5/(3 5) + ...): all terms are positive."""
    point = _decimal(z, context)
    square = context.multiply(point, point)
    term, total, n = point, point, 1
    # From 2n + 1 > 2 z^2 on, the remainder is below the last term.
    while n < square or (term and term.adjusted() > total.adjusted() - context.prec):
        term = context.divide(context.multiply(term, square), Decimal(2 * n + 1))
        total, n = context.add(total, term), n + 1
    return context.multiply(context.exp(context.multiply(square, Decimal("-0.5"))), total)


@dataclass(frozen=True)
class RoundedGaussian:
    """P(k) = Phi((k + 1/2) / sigma) - Phi((k - 1/2) / sigma): a Gaussian rounded to the nearest integer.

    The mass here is sigma times the integral of exp(-t^2 / 2) over [(k - 1/2) / sigma, (k + 1/2) / sigma].
    Kept: |k| + 1/2 <= 15 sigma, and the next integer; the mass beyond is below 2 Phi(-15) < 2^-166.
    """

    sigma: float

    mode = 0

    @property
    def scale(self) -> float:
        """About a standard deviation."""
        return self.sigma

    @property
    def support(self) -> tuple[int, int]:
        """The least and the largest integer kept."""
        bound = max(0, math.ceil(15 * self.sigma - 0.5))
        return -bound, bound

    def mass(self, k: NDArray[np.int64]) -> tuple[Array, Array | float]:
        """float64 mass of each k, and a bound on its relative error."""
        if self.sigma < _SERIES_FROM:
            return self._few[np.abs(k)], 2.0**-50
        # With y = k / sigma^2 and b = 1 / sigma^2 the mass is exp(-k^2 / 2 sigma^2) times the integral over |t| <= 1/2 of
        # cosh(y t) exp(-b t^2 / 2), that is of
        # 1 + (y^2 - b) t^2 / 2 + (y^4 / 24 - y^2 b / 4 + b^2 / 8) t^4 + R(t). The integral of t^4 is 1 / 80, of t^6 1 / 448,
        # and |R(t)| <= 1.51 t^6 (y^6 / 720 + y^4 b / 48 + y^2 b^2 / 16 + b^3 / 48), for y < 1.9 and so cosh(y / 2) < 1.50.
        x = k / self.sigma
        b = 1 / self.sigma**2
        y2 = x * x * b
        remainder = 1.6 / 448 * (y2 * y2 * (y2 / 720 + b / 48) + b * b * (y2 / 16 + b / 48))
        series = 1 + (y2 - b) / 24 + (y2 * y2 / 24 - y2 * b / 4 + b * b / 8) / 80
        return np.exp(-0.5 * x * x) * series, remainder + 2.0**-40

    @cached_property
    def _few(self) -> Array:
        """float64 mass of 0, 1, and so on up to the last integer kept."""
        last = self.support[1]
        context = self._precision(last, 60)
        ends = [Decimal(0)] + [_half_normal(Fraction(2 * k + 1, 2) / Fraction(self.sigma), context) for k in range(last + 1)]
        areas = [context.subtract(high, low) for low, high in pairwise(ends)]
        areas[0] = context.multiply(areas[0], Decimal(2))
        return np.array([float(context.multiply(area, Decimal(self.sigma))) for area in areas])

    def exact(self, k: int, bits: int) -> Fraction:
        """The mass of k within a relative error of 2^-bits."""
        k = abs(k)
        context = self._precision(k, bits)
        low, high = (_half_normal(abs(Fraction(2 * k + side, 2)) / Fraction(self.sigma), context) for side in (-1, 1))
        area = context.subtract(high, low) if k else context.multiply(high, Decimal(2))
        return Fraction(area) * Fraction(self.sigma)

    def _precision(self, k: int, bits: int) -> Context:
        """Enough digits for a difference of two integrals below 1.3; the mass is at least exp(-x^2 / 2), x the further end."""
        x = (k + 0.5) / self.sigma
        return _context(_digits(bits) + x * x / 2 * math.log10(math.e) + max(0.0, math.log10(self.sigma)) + math.log10(1 + x))


@lru_cache(maxsize=1)
def _bernoulli_numbers(count: int = 60) -> list[Fraction]:
    """B_2, B_4, ..., by the recurrence sum_j C(n + 1, j) B_j = 0."""
    values = [Fraction(1)]
    for n in range(1, 2 * count + 1):
        values.append(-sum((math.comb(n + 1, j) * values[j] for j in range(n)), Fraction(0)) / (n + 1))
    return values[2::2]


def _stirling(k: int, context: Context) -> Decimal:
    """log k! - log sqrt(2 pi) for k >= 2000; the error is below the first term left out, as the series envelops its value."""
    point = Decimal(k)
    total = context.subtract(context.multiply(context.add(point, Decimal("0.5")), context.ln(point)), point)
    for j, number in enumerate(_bernoulli_numbers(), 1):
        term = _decimal(number / (2 * j * (2 * j - 1) * k ** (2 * j - 1)), context)
        total = context.add(total, term)
        if term.adjusted() < -context.prec:
            return total
    raise ArithmeticError("Stirling's series needs more terms.")  # beyond 290 digits; one draw in 2^900 asks for so many


def _log_factorial(k: int, context: Context) -> Decimal:
    if k <= _LARGE:
        return context.ln(Decimal(math.factorial(k)))
    # The constant of Stirling's series cancels.
    here, there = _stirling(k, context), _stirling(_LARGE, context)
    return context.add(context.subtract(here, there), context.ln(Decimal(math.factorial(_LARGE))))


@dataclass(frozen=True)
class Poisson:
    """P(k) = e^-rate rate^k / k!.

    Kept: rate - d <= k <= rate + e. The masses beyond are at most exp(-d^2 / 2 rate) and exp(-e^2 / 2 (rate + e / 3)), by
    Bernstein's inequality; both are e^-117, together below 2^-167. No strip reaches below 0: strips
    are wider than one integer only from rate 2^14 on.
    """

    rate: float

    @property
    def scale(self) -> float:
        """About a standard deviation."""
        return math.sqrt(self.rate)

    @property
    def mode(self) -> int:
        """Where the mass is largest."""
        return math.floor(self.rate)

    @property
    def support(self) -> tuple[int, int]:
        """The least and the largest integer kept."""
        down = math.sqrt(2 * 117 * self.rate)
        up = 39 + math.sqrt(39**2 + 2 * 117 * self.rate)
        return max(0, math.floor(self.rate - down)), math.ceil(self.rate + up)

    def mass(self, k: NDArray[np.int64]) -> tuple[Array, float]:
        """float64 mass of each k, and a bound on its relative error.

        Where the mass does not underflow, its logarithm is at most about 2^11 in size, and is computed within 2^-37.
        """
        small = k < 16
        big = np.where(small, 16, k).astype(np.float64)
        # log k! = k log k - k + log(2 pi k) / 2 + 1/12k - ..., the error below the first term left out, 2^-45.
        inverse = 1 / big
        square = inverse * inverse
        tail = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
        logarithm = -self._deviance(big) - 0.5 * np.log(2 * np.pi * big) - tail
        if small.any():
            factorials = np.array([math.log(math.factorial(j)) for j in range(16)])
            first = np.minimum(k, 15)
            logarithm = np.where(small, first * math.log(self.rate) - self.rate - factorials[first], logarithm)
        return np.exp(logarithm), 2.0**-36

    def _deviance(self, k: Array) -> Array:
        """k log(k / rate) + rate - k = rate ((1 + e) log(1 + e) - e), e = (k - rate) / rate; by its series for small e."""
        e = (k - self.rate) / self.rate
        near = np.abs(e) < 0.05
        small = np.where(near, e, 0.0)
        series = np.zeros_like(e)
        for j in range(14, 1, -1):
            series = (-1) ** j / (j * (j - 1)) + small * series
        far = np.where(near, 1.0, e)
        return np.asarray(self.rate * np.where(near, small * small * series, (1 + far) * np.log1p(far) - far))

    def exact(self, k: int, bits: int) -> Fraction:
        """The mass of k within a relative error of 2^-bits."""
        # k log(rate) has up to 2^50 * 35 before the point.
        context = _context(_digits(bits) + 20)
        rate = Decimal(self.rate)
        power = context.subtract(context.multiply(Decimal(k), context.ln(rate)), rate)
        return Fraction(context.exp(context.subtract(power, _log_factorial(k, context))))
