"""Lower bounds on epsilon from samples of two neighbouring worlds, each valid with a stated probability.

Half of the samples choose the distinguisher: a linear score of what the observer sees, and a threshold. The other half count its
errors, and Clopper-Pearson bounds hold for these, whatever was chosen. Two bounds are made of them:

- `two_counts` holds for every mechanism: P(score > t | one world) <= e^epsilon P(score > t | other world) + delta.
- `gaussian` holds where the privacy loss is that of a Gaussian mechanism with *some* noise multiplier: it bounds the multiplier
  (Dong, Roth, Su 2022, "Gaussian Differential Privacy": a test of errors a and b shows mu >= Phi^-1(1 - a) - Phi^-1(b)), and
  epsilon at delta follows from it (Balle, Wang 2018, Theorem 8). It is far closer to the truth. It is never taken in absolute
  value: a test that is worse than a coin shows nothing.

Nothing here uses `manent.accounting`, whose numbers are what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Samples = NDArray[np.float64]
Kind = Literal["gaussian", "any"]
_TAILS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001)


@dataclass(frozen=True)
class Worlds:
    """What an observer sees in two neighbouring worlds, [samples, features] each; samples are independent.

    Attributes:
        kind: "gaussian" where the loss is that of a Gaussian mechanism, so that the closer bound holds.
    """

    one: Samples
    other: Samples
    kind: Kind = "any"

    def __post_init__(self) -> None:
        assert self.one.shape[1:] == self.other.shape[1:]


def below(hits: int, of: int, alpha: float) -> float:
    """Clopper-Pearson: with probability 1 - alpha the chance of a hit is at least this."""
    return 0.0 if hits == 0 else float(stats.beta.ppf(alpha, hits, of - hits + 1))


def above(hits: int, of: int, alpha: float) -> float:
    """Clopper-Pearson: with probability 1 - alpha the chance of a hit is at most this."""
    return 1.0 if hits == of else float(stats.beta.isf(alpha, hits + 1, of - hits))


def lower_bound(worlds: Worlds, delta: float, alpha: float) -> float:
    """epsilon is at least this, with probability 1 - alpha; 0 where the samples show nothing."""
    half = [len(world) // 2 for world in (worlds.one, worlds.other)]
    weights = _direction(worlds.one[: half[0]], worlds.other[: half[1]])
    scores = [world @ weights for world in (worlds.one, worlds.other)]
    chosen = [score[:at] for score, at in zip(scores, half, strict=True)]
    fresh = [score[at:] for score, at in zip(scores, half, strict=True)]
    if worlds.kind == "gaussian":
        threshold = (np.mean(chosen[0]) + np.mean(chosen[1])) / 2
        return gaussian(fresh[0], fresh[1], float(threshold), delta, alpha)
    return two_counts(chosen, fresh, delta, alpha)


def _direction(one: Samples, other: Samples) -> Samples:
    """Fisher's linear discriminant: the weights [features] that part the worlds best where both are normal.

    Features that hardly vary, such as noise-free ones, keep a little of a ridge, so that nothing is divided by zero.
    """
    gap = one.mean(0) - other.mean(0)
    spread = np.atleast_2d(np.cov(one, rowvar=False) + np.cov(other, rowvar=False)) / 2
    ridge = 1e-12 * max(float(np.trace(spread)), 1e-30)
    weights: Samples = np.linalg.solve(spread + ridge * np.eye(len(spread)), gap)
    return weights


def gaussian(one: Samples, other: Samples, threshold: float, delta: float, alpha: float) -> float:
    """The bound for Gaussian losses; `one` is said to be above the threshold."""
    missed = above(int((one <= threshold).sum()), len(one), alpha / 2)
    false = above(int((other > threshold).sum()), len(other), alpha / 2)
    mu = float(stats.norm.isf(false) - stats.norm.ppf(missed))
    return epsilon_of(mu, delta) if mu > 0 else 0.0


def epsilon_of(mu: float, delta: float) -> float:
    """epsilon at delta of a Gaussian mechanism whose worlds are mu deviations apart (Balle, Wang 2018, Theorem 8)."""
    if not math.isfinite(mu):
        return math.inf

    def excess(epsilon: float) -> float:
        low, high = stats.norm.logcdf(-epsilon / mu + mu / 2), epsilon + stats.norm.logcdf(-epsilon / mu - mu / 2)
        return float(math.exp(low) - math.exp(min(high, low)) - delta)

    if excess(0.0) <= 0:
        return 0.0
    most = mu**2 / 2 + 40 * mu
    return float(optimize.brentq(excess, 0.0, most, xtol=1e-12)) if excess(most) < 0 else most


def two_counts(chosen: list[Samples], fresh: list[Samples], delta: float, alpha: float) -> float:
    """The bound for any mechanism: the best threshold, direction and world of the first samples, counted on fresh ones."""
    found = [(_shown(*_hits(chosen, *test), delta, alpha), test) for test in _tests(chosen)]
    _, best = max(found, key=lambda pair: pair[0])
    return _shown(*_hits(fresh, *best), delta, alpha)


def _tests(samples: list[Samples]) -> Iterator[tuple[int, int, float]]:
    """(which world is claimed, sign of the score, threshold)."""
    for claimed in (0, 1):
        for sign in (1, -1):
            for of in (0, 1):
                for threshold in np.quantile(sign * samples[of], 1 - np.array(_TAILS)):
                    yield claimed, sign, float(threshold)


def _hits(samples: list[Samples], claimed: int, sign: int, threshold: float) -> tuple[int, int, int, int]:
    """Right and all of the claimed world, wrong and all of the other."""
    one, other = samples[claimed], samples[1 - claimed]
    return int((sign * one > threshold).sum()), len(one), int((sign * other > threshold).sum()), len(other)


def _shown(right: int, of_one: int, wrong: int, of_other: int, delta: float, alpha: float) -> float:
    low, high = below(right, of_one, alpha / 2), above(wrong, of_other, alpha / 2)
    return max(0.0, math.log((low - delta) / high)) if low > delta else 0.0


def summary(found: dict[str, Any]) -> str:
    """One audit in words."""
    about = f"{found['mechanism']}, {found['relation']}, against {found['observer']}"
    return f"{about}: stated {found['stated']:.4g}, at least {found['lower']:.4g} ({found['tightness']:.2f})"
