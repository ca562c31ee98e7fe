"""Noise that is correlated between rounds, for cohorts that are not sampled secretly (DP-FTRL by matrix factorisation)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from manent.accounting.events import MatrixFactorisation
from manent.accounting.factorisation import (
    buffered,
    buffered_inverse,
    fitted_buffers,
    inverse,
    sensitivity,
    square_root,
)
from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.core.layers import Form, Gathering, Stage
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays
from manent.crypto.samplers.noise import LARGEST, STATISTICAL_DISTANCE, rounded_gaussian
from manent.layers.noise import NoiseStage, bound, check_multiplier, multiplier, reach
from manent.layers.order import refuse_order

BUFFERS = 3
"""Where nothing else is asked for. At 1,024 rounds and four participations the worst prefix sum has an eighth of the deviation
that independent noise leaves (7.7 to 64), as with 256 bands; 16 bands leave a third."""
_FRACTION = 16  # bits of banded coefficients behind the point
_SLACK = 2.0**-30  # far more than what float64 leaves out of a norm
_KEPT = 16  # coefficients that are compared on resuming


@final
@dataclass(frozen=True)
class CorrelatedNoise:
    """The server adds noise to each round's total that cancels, in part, what it added before: little is left in the model.

    The noise w_t of round t solves C w = z, for fresh noise z and a lower triangular Toeplitz C with coefficients 1, c_1, c_2,
    ... that are >= 0 and never grow: of a few buffers (BLT: McMahan, Xu, Zhang 2024, "A Hassle-free Algorithm for Strong
    Differential Privacy in Federated Learning Systems") or banded (the square root's first ones: Kalinin, Lampert 2024, "Banded
    Square Root Matrix Factorization for Differentially Private Model Training"). Nothing rests on a secret sample, and all rounds
    are accounted at once, by zCDP. It needs Cohort(min_separation=s): a client's participations are at least s rounds apart, and
    so at most k = ceil(rounds / s). What one client can move of C x is known for these (see `accounting.factorisation`).

    On whole numbers. With fresh rounded Gaussian noise R_t of deviation sigma the server releases y_t = x_t + w_t, where
    w_t = R_t - q_t, and q_t is a whole number made of w_{t-1}, w_{t-2}, ... that differs from sum_j c_j w_{t-j} by at most
    1/2 + E. Fix earlier releases, and two neighbouring inputs whose totals differ by delta_t; totals may depend on earlier
    releases. Then w = y - x is known for each input, so y_t is a known whole number plus R_t, and the two numbers differ by
    v_t = delta_t + sum_j c_j delta_{t-j} + e_t = (C delta)_t + e_t, with e_t at most 1 + 2 E in each coordinate, and zero before
    the client first took part. Rounded Gaussians are post-processing of Gaussians, so round t has Rényi divergence at most
    alpha |v_t|^2 / 2 sigma^2, and for every run sum_t |v_t|^2 is at most Delta^2, where
    Delta = ||C delta|| + (1 + 2 E) sqrt((rounds - 1) d). Under such a bound adaptive releases compose as if they were fixed
    (Feldman, Zrnic 2021, "Individual Privacy Accounting via a Rényi Filter", Theorem 3.1): all is Delta^2 / 2 sigma^2-zCDP.
    The layer takes sigma = noise_multiplier * Delta. On the default grid the second term is below a hundredth of the first up
    to 10^9 coordinates of all rounds together. See `Bands` and `Buffers` for E.

    The state holds the noise of earlier rounds: whoever reads it beside the totals takes noise off. It is the server's own,
    part of its checkpoint, and wiped with the last round.

    All rounds are one release to the ledger: it is spent as a whole with the first, and a run that ends early gets nothing back.
    AdaptiveClip, whose share of the noise is worked out for independent rounds, does not go with it.

    Attributes:
        noise_multiplier: of all rounds together: sigma / Delta. None takes it from the budget.
        bands: from 1 (independent noise) to min_separation, in place of buffers; the state is bands - 1 vectors of int64.
        buffers: 1 to 5; the state is so many vectors of float64.
    """

    noise_multiplier: float | None = None
    bands: int | None = None
    buffers: int = BUFFERS
    place: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_multiplier("CorrelatedNoise", self.noise_multiplier)
        if self.bands is not None:
            validate.count("CorrelatedNoise", "bands", self.bands, " or None")
        validate.count("CorrelatedNoise", "buffers", self.buffers)
        if self.buffers > 5:
            raise InvalidInput(f"CorrelatedNoise expects buffers <= 5, more save nothing; found {self.buffers}.")

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        refuse_order("CorrelatedNoise", form, whole=True)
        apart, rounds, size = gathering.min_separation, gathering.rounds, form.layout.size
        if apart is None:
            raise Refused(
                "CorrelatedNoise needs a cohort that keeps a distance between two participations of a client. Use "
                "Cohort(size=..., min_separation=...) or Cohort(min_separation=...), or CentralNoise."
            )
        if self.bands is not None and self.bands > apart:
            raise Refused(
                f"CorrelatedNoise has {self.bands} bands, and clients come back after {apart} rounds. Use bands <= {apart}."
            )
        if form.bits is not None:
            raise Refused(
                "The server adds CorrelatedNoise after the sum, so a modulus saves nothing. Leave Discretize(bits=...) out."
            )
        z, most = multiplier("CorrelatedNoise", self.noise_multiplier, gathering), -(-rounds // apart)
        correlation = self._correlation(rounds, most, apart)
        moved = sensitivity(correlation.coefficients(rounds), rounds, most, apart) * (1 + _SLACK)
        sigma = z * (moved * bound(form, "CorrelatedNoise") + correlation.widest * math.sqrt((rounds - 1) * size))
        event = MatrixFactorisation(z, rounds, most, apart, min(rounds * size * STATISTICAL_DISTANCE, 0.5))
        fault = form.fault or _fault(sigma, correlation, rounds, gathering.most * (form.largest or 0.0))
        given = replace(form, noise="CorrelatedNoise", fault=fault)
        return CorrelatedStage(given, event, None, "server", sigma * (form.grid or 1.0), sigma, correlation, rounds)

    def _correlation(self, rounds: int, most: int, apart: int) -> Bands | Buffers:
        if self.bands is not None:
            return Bands(tuple(int(c) for c in np.rint(square_root(min(self.bands, rounds)) * 2**_FRACTION)))
        return Buffers(*fitted_buffers(rounds, most, apart, self.buffers))


@dataclass(frozen=True)
class Bands:
    """What is kept of earlier noise with a banded C: the noise itself. All is exact in int64, so E = 0.

    `weights` are c_0 = 1, c_1, ... times 2^16, whole.
    """

    weights: tuple[int, ...]
    widest: ClassVar[float] = 1.0

    def coefficients(self, rounds: int) -> Array:
        return np.array(self.weights, np.float64) * 2.0**-_FRACTION

    def init(self, size: int) -> Array:
        return np.zeros((len(self.weights) - 1, size), np.int64)

    def earlier(self, past: Array) -> Array:
        """int64[d]: q_t."""
        total = np.full(past.shape[1], 1 << (_FRACTION - 1), np.int64)
        for weight, vector in zip(self.weights[1:], past, strict=True):
            total += weight * vector
        whole: Array = total >> _FRACTION
        return whole

    def after(self, past: Array, noise: Array) -> Array:
        kept: Array = np.concatenate([noise[None], past])[: len(past)]
        return kept

    def fits(self, fresh: float, rounds: int) -> bool:
        """Whether fresh noise of at most this size leaves every sum within 2^62."""
        gain = float(np.abs(inverse(self.coefficients(rounds), rounds)).sum())
        return (fresh + 1) * gain * sum(self.weights) < 2.0**62


@dataclass(frozen=True)
class Buffers:
    """What is kept of earlier noise with a buffered C: s_i = sum_j decays_i^(j-1) w_{t-j}; c_j = sum_i scales_i decays_i^(j-1).

    In float64, in steps s_i <- decays_i s_i + w_t of two roundings each: with |w| <= W every |s_i| is at most W / (1 - decays_i),
    so its errors add up to at most 2^-52 W / (1 - decays_i)^2, and the sum over i adds as many units of the last place as there
    are terms. `fits` demands that all this, E, is at most 1/4, with a factor of two to spare; the noise is sized for 1/2.
    """

    scales: tuple[float, ...]
    decays: tuple[float, ...]
    widest: ClassVar[float] = 2.0

    def coefficients(self, rounds: int) -> Array:
        return buffered(np.array(self.scales), np.array(self.decays), rounds)

    def init(self, size: int) -> Array:
        return np.zeros((len(self.scales), size))

    def earlier(self, past: Array) -> Array:
        """int64[d]: q_t."""
        total = np.zeros(past.shape[1])
        for scale, buffer in zip(self.scales, past, strict=True):
            total += scale * buffer
        return np.rint(total).astype(np.int64)

    def after(self, past: Array, noise: Array) -> Array:
        kept: Array = past * np.array(self.decays)[:, None]
        kept += noise
        return kept

    def fits(self, fresh: float, rounds: int) -> bool:
        """Whether fresh noise of at most this size leaves every number exact enough."""
        gain = float(np.abs(buffered_inverse(np.array(self.scales), np.array(self.decays), rounds)).sum())
        largest, left = (fresh + 2) * gain, 1 - np.array(self.decays)
        errors = float((np.array(self.scales) * (1 / left**2 + (len(left) + 2) / left)).sum()) * largest * 2.0**-52
        return 2 * errors <= 0.5


@dataclass(frozen=True)
class CorrelatedStage(NoiseStage):
    """See `CorrelatedNoise`. `sigma` is of the fresh noise, in steps of the grid.

    State: "past", what `correlation` keeps; "coefficients", float64, C's first ones; "round", int64[1], how many were released.
    """

    sigma: float
    correlation: Bands | Buffers
    rounds: int

    def init(self) -> Arrays:
        past, first = self.correlation.init(self.form.layout.size), self._first()
        return {"past": past, "coefficients": first, "round": np.zeros(1, np.int64)}

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        past, done = state["past"], int(state["round"][0]) + 1
        noise = rounded_gaussian(self.sigma, total.shape, random) - self.correlation.earlier(past)
        # After the last round nothing needs the noise any more, and what is not kept cannot be taken off.
        kept = np.zeros_like(past) if done >= self.rounds else self.correlation.after(past, noise)
        return total + noise, {**state, "past": kept, "round": np.array([done], np.int64)}

    def check_round(self, state: Arrays, round: int) -> None:
        """Raises Refused unless the sum was released once in every earlier round, with the same C."""
        released = int(state["round"][0])
        if released != round - 1:
            raise Refused(
                f"CorrelatedNoise counts the distance between participations in releases, one a round; before round {round} "
                f"there were {released}. Use an algorithm that forms this sum once a round, or CentralNoise."
            )
        if not np.array_equal(state["coefficients"], self._first()):
            raise Refused("The noise of earlier rounds was made with other coefficients. Resume with the same version of scipy.")

    def _first(self) -> Array:
        return self.correlation.coefficients(self.rounds)[:_KEPT]


def _fault(sigma: float, correlation: Bands | Buffers, rounds: int, largest: float) -> str | None:
    """Why noise of this size, with all that is computed of it, does not fit into its numbers."""
    if sigma <= LARGEST and largest < 2.0**61 and correlation.fits(reach(sigma, "gaussian"), rounds):
        return None
    return f"Noise of {sigma:.3g} steps of the grid cannot be kept exactly enough. Use Discretize(grid=...) with a coarser grid."
