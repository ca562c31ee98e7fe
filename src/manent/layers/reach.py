"""How far a sum of whole numbers reaches: what a ring must hold, so that no sum of a study comes back wrong.

The bounds hold for all coordinates of all sums together, by a union bound over Chernoff's: where log E exp(t X) <= K(t) for a
t > 0, P(X >= r) <= exp(K(t) - t r). What is random in a coordinate of a sum, each part independently of the others:

| part | log E exp(t X) is at most |
|---|---|
| a sum of norm at most N, rotated in blocks of b: sum_k +-S_k / sqrt b, over the signs | t^2 N^2 / 2 b (Hoeffding 1963) |
| a discrete Gaussian: complete the square; sum_k exp(-(k - c)^2 / 2 sigma^2) is largest at c = 0 | t^2 sigma^2 / 2 |
| a Gaussian, rounded: by Hölder, as the rounding is symmetric and at most 1/2 | t^2 (sigma + 1/2)^2 / 2 |
| Skellam | sigma^2 (cosh t - 1), exactly |
| discrete Laplace, q = exp(-1 / scale), t < 1 / scale | log((1 - q)^2 / ((1 - q e^t)(1 - q e^-t))), exactly |

Rounding is drawn again where it leaves a vector too long, so its errors are not independent: they count as one step a client.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from manent.core.layers import Gathering

LAWS = frozenset({"gaussian", "discrete_gaussian", "laplace", "skellam"})
"""The laws of noise whose tails are known here."""
_SEARCHES = 60  # each narrows the search for t to two thirds
_SLACK = 2.0**-10  # far more steps a client than floating point and scaling down to the bound move a number


@dataclass(frozen=True)
class Reach:
    """What a coordinate of a study's sums stays within, but for a stated probability.

    Attributes:
        gathering: what is public about the cohort and its noise.
        size: how many coordinates a sum has.
        block: of the rotation; None where there is none.
        failure: the probability, over all coordinates of all sums of the study, that any is beyond. An eighth is for what the
            samplers are off their law: far more than 2^-160 a draw.
    """

    gathering: Gathering
    size: int
    block: int | None
    failure: float

    @property
    def sums(self) -> int:
        """How many sums the study forms, at most."""
        return self.gathering.rounds * self.gathering.kinds

    @property
    def known(self) -> bool:
        """Whether the noise is of a law that is known here."""
        return self.gathering.noise is None or self.gathering.noise.law in LAWS

    @property
    def certain(self) -> bool:
        """Whether nothing that is random decides how far a sum reaches. The failure probability is 0 then."""
        noisy = self.gathering.noise is not None and self.gathering.noise_multiplier is not None
        return not noisy and self.block is None and self.clients == self.gathering.most

    @property
    def clients(self) -> int:
        """The most vectors in a sum. Where a cohort is drawn by independent coins, it may be larger with half the probability.

        P(X >= m) <= exp(m - mu - m log(m / mu)) for a sum of independent coins with mean mu (Chernoff 1952).
        """
        mean, most = self.gathering.expected, self.gathering.most
        odds, low, high = math.log(self.sums * 2) - math.log(self.failure), math.ceil(mean), most

        def rare(count: int) -> bool:
            return count * math.log(count / mean) - count + mean >= odds

        if not 0 < mean < most or not rare(most):
            return most
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if rare(middle) else (middle + 1, high)
        return high

    def steps(self, norm: float, limit: float) -> float:
        """The bound, in steps of the grid; infinite where none is found.

        Args:
            norm: of a client's vector before it is made whole, in steps.
            limit: of its whole numbers.

        """
        n, noise, z = self.clients, self.gathering.noise, self.gathering.noise_multiplier
        law, count, scale = "none", 0, 0.0
        if noise is not None and z is not None:  # no more draws than clients, or the server's one
            law, count, scale = noise.law, min(noise.count, max(n, 1)), z * noise.share * limit
        odds = math.log(8 / 3 * 2 * self.size * self.sums) - math.log(self.failure)
        always = n * math.floor(limit) + tail(law, count, scale, odds)
        if self.block is None:
            return always
        return min(always, n * (1 + _SLACK) + tail(law, count, scale, odds, (n * norm) * (n * norm) / self.block))


def tail(law: str, count: int, scale: float, odds: float, proxy: float = 0.0) -> float:
    """r with P(X >= r) <= exp(-odds), for a sum X of independent draws of noise and of a sub-Gaussian part.

    Args:
        law: a mechanism of a layer, or "none".
        count: how many draws.
        scale: deviation of one, or for Laplace its scale, in steps.
        proxy: the variance of the Gaussian that the other part is not wider than.

    Infinite for a law that is not known.
    """
    if law == "none" or count == 0:
        return math.sqrt(2 * odds * proxy)
    if law in ("gaussian", "discrete_gaussian"):
        deviation = scale + 0.5 * (law == "gaussian")
        return math.sqrt(2 * odds * (proxy + count * deviation * deviation))
    widest = proxy + count * scale * scale * (2 if law == "laplace" else 1)
    if law not in LAWS or not 0 < widest < math.inf:
        return math.inf
    cumulant = _cumulant(law, scale)

    def bound(log_t: float) -> float:
        t = math.exp(log_t)
        return (t * t * proxy / 2 + count * cumulant(t) + odds) / t

    # The best t is at most that of a Gaussian of this variance. Any t gives a bound, so the search need not be exact.
    high = math.log(math.sqrt(2 * odds / widest))
    low = high - 20
    for _ in range(_SEARCHES):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if bound(left) <= bound(right) else (left, high)
    return bound(low)


def _cumulant(law: str, scale: float) -> Callable[[float], float]:
    """log E exp(t X) of one draw, as a function of t > 0; infinite where it is too large for a float, or does not exist."""

    def skellam(t: float) -> float:
        return math.inf if t > 700 else 2 * scale * scale * math.sinh(t / 2) * math.sinh(t / 2)

    def laplace(t: float) -> float:
        a = 1 / scale
        if not t < a:
            return math.inf
        return 2 * math.log(-math.expm1(-a)) - math.log(-math.expm1(t - a)) - math.log(-math.expm1(-t - a))

    return skellam if law == "skellam" else laplace
