"""Noise that is correlated between rounds, for cohorts that are not sampled secretly (DP-FTRL by matrix factorisation)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from manent.accounting.events import MatrixFactorisation
from manent.accounting.factorisation import inverse, sensitivity, square_root
from manent.core.errors import Refused, check_count
from manent.core.layers import Form, Gathering, Stage
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays
from manent.crypto.noise import LARGEST, STATISTICAL_DISTANCE, rounded_gaussian
from manent.privacy.noise import NoiseStage, bound, check_multiplier, multiplier, reach
from manent.privacy.order import refuse_order

BANDS = 16
"""Bands where none are asked for. At 1,024 rounds and four participations the worst prefix sum has a third of the deviation that
independent noise leaves (20 to 64); with 64 bands it is a fifth, with 256 an eighth."""
_FRACTION = 16  # bits of the coefficients behind the point


@final
@dataclass(frozen=True)
class TreeNoise:
    """The server adds noise to each round's total that cancels, in part, what it added before: little is left in the model.

    The noise w_t of round t solves C w = z, for fresh noise z and a banded Toeplitz C, the first coefficients of the square
    root of the prefix sum (Kalinin, Lampert 2024, "Banded Square Root Matrix Factorization"). Nothing rests on a secret
    sample, and all rounds are accounted at once, by zCDP. It needs Cohort(min_separation=s): a client's participations are at
    least s rounds apart, and so at most k = ceil(rounds / s); with at most s bands they share no row of C, and the encoded
    contributions of one client have norm at most sqrt(k) ||c|| times its clip norm (Choquette-Choo et al. 2023, "(Amplified)
    Banded Matrix Factorization", Theorem 2).

    On whole numbers. Let c_j be whole multiples of 2^-16, c_0 = 1, and r the rounding to whole numbers, half up, both exact
    in int64. With fresh rounded Gaussian noise R_t of deviation sigma the server releases y_t = x_t + w_t, where
    w_t = R_t - r(sum_{j=1}^{b-1} c_j w_{t-j}). Fix earlier releases, and two neighbouring inputs whose totals differ by
    delta_t; totals may depend on earlier releases. Then w = y - x is known for each input, so y_t is a known whole number plus
    R_t, and the two numbers differ by v_t = delta_t + sum_j c_j delta_{t-j} + e_t = (C delta)_t + e_t. The difference of two
    roundings moves e_t by less than 1 in a coordinate, and by nothing unless one of delta_{t-1}, ..., delta_{t-b+1} is not 0:
    in at most min(k (b - 1), rounds - 1) rounds. Rounded Gaussians are post-processing of Gaussians, so round t has Rényi
    divergence at most alpha |v_t|^2 / 2 sigma^2, and for every run sum_t |v_t|^2 is at most Delta^2, where
    Delta = ||C delta|| + sqrt(min(k (b - 1), rounds - 1) d). Under such a bound adaptive releases compose as if they were fixed
    (Feldman, Zrnic 2021, "Individual Privacy Accounting via a Rényi Filter", Theorem 3.1): all is Delta^2 / 2 sigma^2-zCDP.
    The layer takes sigma = noise_multiplier * Delta. On the default grid the second term is below a hundredth of the first up
    to about 10^10 affected coordinates.

    The state holds the noise of the last rounds: whoever reads it beside the totals takes that noise off. It is the server's
    own, part of its checkpoint, and wiped with the last round.

    Attributes:
        noise_multiplier: of all rounds together: sigma / Delta. None takes it from the budget.
        bands: b, from 1 (independent noise) to min_separation; None takes 16, or fewer where that is more. The state is
            b - 1 vectors of int64.
    """

    noise_multiplier: float | None = None
    bands: int | None = None
    place: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_multiplier("TreeNoise", self.noise_multiplier)
        if self.bands is not None:
            check_count("TreeNoise", "bands", self.bands, " or None")

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        refuse_order("TreeNoise", form, whole=True)
        apart, rounds, size = gathering.min_separation, gathering.rounds, form.layout.size
        if apart is None:
            raise Refused(
                "TreeNoise needs a cohort that keeps a distance between two participations of a client. Use "
                "Cohort(size=..., min_separation=...) or Cohort(min_separation=...), or CentralNoise."
            )
        bands = min(self.bands or BANDS, rounds) if self.bands else min(BANDS, apart, rounds)
        if bands > apart:
            raise Refused(f"TreeNoise has {bands} bands, and clients come back after {apart} rounds. Use bands <= {apart}.")
        if form.bits is not None:
            raise Refused("The server adds TreeNoise after the sum, so a modulus saves nothing. Leave Discretize(bits=...) out.")
        z, most = multiplier("TreeNoise", self.noise_multiplier, gathering), -(-rounds // apart)
        weights = whole_coefficients(bands)
        delta = enlarged(weights, rounds, most, apart, bound(form, "TreeNoise"), size)
        sigma = z * delta
        event = MatrixFactorisation(z, rounds, most, apart, min(rounds * size * STATISTICAL_DISTANCE, 0.5))
        given = replace(form, noise="TreeNoise", fault=form.fault or _fault(sigma, weights, rounds, form, gathering))
        return TreeStage(given, event, None, "server", sigma * (form.grid or 1.0), sigma, tuple(map(int, weights)), rounds)


@dataclass(frozen=True)
class TreeStage(NoiseStage):
    """See `TreeNoise`. `sigma` is of the fresh noise, in steps of the grid; `weights` are c_0, c_1, ... times 2^16.

    State: "past", int64[b - 1, d], w of the rounds before, the latest first; "round", int64[1], how many were released.
    """

    sigma: float
    weights: tuple[int, ...]
    rounds: int

    def init(self) -> Arrays:
        past = np.zeros((len(self.weights) - 1, self.form.layout.size), np.int64)
        return {"past": past, "round": np.zeros(1, np.int64)}

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        past, done = state["past"], int(state["round"][0]) + 1
        noise = rounded_gaussian(self.sigma, total.shape, random)
        if len(past):
            earlier = np.full(total.shape, 1 << (_FRACTION - 1), np.int64)
            for weight, vector in zip(self.weights[1:], past, strict=True):
                earlier += weight * vector
            noise -= earlier >> _FRACTION
        # After the last round nothing needs the noise any more, and what is not kept cannot be taken off.
        kept = np.zeros_like(past) if done >= self.rounds else np.concatenate([noise[None], past])[: len(past)]
        return total + noise, {"past": kept, "round": np.array([done], np.int64)}

    def check_round(self, state: Arrays, round: int) -> None:
        """Raises Refused unless the sum was released once in every earlier round: the distance is counted in releases."""
        released = int(state["round"][0])
        if released != round - 1:
            raise Refused(
                f"TreeNoise counts the distance between participations in releases, one a round; before round {round} there "
                f"were {released}. Use an algorithm that forms this sum once a round, or CentralNoise."
            )


def whole_coefficients(bands: int) -> Array:
    """int64[bands], the square root's first coefficients times 2^16, rounded: they never grow, and the first is exact."""
    whole: Array = np.rint(square_root(bands) * 2**_FRACTION).astype(np.int64)
    return whole


def enlarged(weights: Array, rounds: int, participations: int, apart: int, norm: float, size: int) -> float:
    """Delta of `TreeNoise`: what one client can move, rounding included, in steps of the grid."""
    exact = sensitivity(weights / 2**_FRACTION, rounds, participations, apart) * norm
    return exact + math.sqrt(min(participations * (len(weights) - 1), rounds - 1) * size)


def _fault(sigma: float, weights: Array, rounds: int, form: Form, gathering: Gathering) -> str | None:
    """Why noise of this size does not fit into 64 bits, with all that is computed of it."""
    gain = float(np.abs(inverse(weights / 2**_FRACTION, rounds)).sum())
    largest = (reach(sigma, "gaussian") + 1) * gain
    if sigma <= LARGEST and largest * float(weights.sum()) < 2.0**62 and largest + gathering.most * (form.largest or 0) < 2.0**61:
        return None
    return f"Noise of {sigma:.3g} steps of the grid could overflow 64 bits. Use Discretize(grid=...) with a coarser grid."
