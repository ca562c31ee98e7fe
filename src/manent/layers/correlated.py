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
from manent.core.layers import Cost, Form, Gathering, Place, Stage
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays
from manent.crypto.samplers.noise import LARGEST, STATISTICAL_DISTANCE, rounded_gaussian
from manent.layers.noise import bound, check_multiplier, multiplier, reach
from manent.layers.order import refuse_order

BUFFERS = 3
"""How many buffers there are where the layer does not say. At 1,024 rounds and four participations the worst prefix sum then has
an eighth of the deviation that independent noise leaves (7.7 to 64), as with 256 bands; 16 bands leave a third."""
_FRACTION = 16  # bits of banded coefficients behind the point
_SLACK = 2.0**-30  # far more than what float64 leaves out of a norm
_KEPT = 16  # coefficients that are compared on resuming


@final
@dataclass(frozen=True)
class CorrelatedNoise:
    """The server adds noise to each round's total that cancels, in part, what it added before. Little is left in the model.

    The noise w_t of round t solves C w = z, for fresh noise z and a lower triangular Toeplitz matrix C. Its coefficients 1, c_1,
    c_2, ... are >= 0 and never grow. They come from a few buffers (BLT: McMahan, Xu, Zhang 2024, "A Hassle-free Algorithm for
    Strong Differential Privacy in Federated Learning Systems"), or are the square root's first ones, banded (Kalinin, Lampert
    2024, "Banded Square Root Matrix Factorization for Differentially Private Model Training"). Nothing rests on a secret sample,
    and all rounds are accounted at once, as one Gaussian release. The layer needs Cohort(min_separation=s): a client's
    participations are at least s rounds apart, so there are at most k = ceil(rounds / s) of them. How far one client can move
    C x is known for these (see `accounting.factorisation`).

    **On whole numbers.** With fresh rounded Gaussian noise R_t of deviation sigma the server releases y_t = x_t + w_t. Here
    w_t = R_t - q_t, and q_t is a whole number made of w_{t-1}, w_{t-2}, ... that differs from sum_j c_j w_{t-j} by at most
    1/2 + E. Fix earlier releases, and two neighbouring inputs whose totals differ by delta_t; totals may depend on earlier
    releases. Then w = y - x is known for each input, so y_t is a known whole number plus R_t, and the two numbers differ by
    v_t = delta_t + sum_j c_j delta_{t-j} + e_t = (C delta)_t + e_t. Each coordinate of e_t is at most 1 + 2 E, and zero before
    the client first took part. Rounded Gaussians are post-processing of Gaussians, so round t has Rényi divergence at most
    alpha |v_t|^2 / 2 sigma^2. For every run sum_t |v_t|^2 is at most Delta^2, where
    Delta = ||C delta|| + (1 + 2 E) sqrt((rounds - 1) d). Under such a bound adaptive releases compose as if they were fixed
    (Feldman, Zrnic 2021, "Individual Privacy Accounting via a Rényi Filter", Theorem 3.1): all is Delta^2 / 2 sigma^2-zCDP. So
    do Gaussian ones as Gaussians (Smith, Thakurta 2022, "Fully Adaptive Composition for Gaussian Differential Privacy"): all
    costs what one Gaussian release of multiplier sigma / Delta does.
    The layer takes sigma = noise_multiplier * Delta. On the default grid the second term is below a hundredth of the first up
    to 10^9 coordinates of all rounds together. See `Bands` and `Buffers` for E.

    | observer or case | what holds |
    |---|---|
    | other clients, the public | protected, whatever they know of who took part; sampling does not amplify |
    | the server | no differential privacy |
    | whoever reads the server's state beside the totals | takes noise off: the state holds the noise of earlier rounds |
    | the ledger | all rounds are one release, spent with the first; a run that ends early gets nothing back |
    | a round that is abandoned | cannot be: a minimum above 1 is Refused |
    | a sum that is not formed once in every round | Refused |
    | AdaptiveClip | Refused: its share of the noise is worked out for independent rounds |
    | a cohort without min_separation, or fewer rounds between participations than bands | Refused |
    | Discretize(bits=...) | Refused: the server adds the noise after the sum, so a modulus saves nothing |
    | resumed with other coefficients | Refused |

    The state is the server's own and part of its checkpoint. It is wiped with the last round.

    Attributes:
        noise_multiplier: sigma / Delta, of all rounds together, > 0. None takes it from the budget.
        bands: from 1 (independent noise) to min_separation, in place of buffers. The state is bands - 1 vectors of int64.
        buffers: 1 to 5. The state is so many vectors of float64.

    Raises:
        InvalidInput: for a value out of range.
    """

    noise_multiplier: float | None = None
    bands: int | None = None
    buffers: int = BUFFERS
    place: ClassVar[Place] = "noise"
    correlates_rounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_multiplier("CorrelatedNoise", self.noise_multiplier)
        if self.bands is not None:
            validate.count("CorrelatedNoise", "bands", self.bands, " or None")
        validate.count("CorrelatedNoise", "buffers", self.buffers)
        if self.buffers > 5:
            raise InvalidInput(f"CorrelatedNoise expects buffers <= 5, more save nothing; found {self.buffers}.")

    def check_cohort(self, minimum: int, sampled: bool) -> None:
        """Raises Refused where a sum could be abandoned, as later participations would then be closer together."""
        if minimum > 1:
            raise Refused(
                f"CorrelatedNoise is released in every round: one that is abandoned would bring participations closer together, "
                f"and a minimum of {minimum} allows that. Leave minimum out."
            )

    def check_sum(self, name: str, every: int) -> None:
        """Raises Refused for a sum that is not formed in every round."""
        if every != 1:
            raise Refused(f"CorrelatedNoise needs sums of every round; {name!r} is formed every {every} rounds. Leave it out.")

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """The stage, with the fresh noise sized for all rounds together.

        Raises:
            Refused: for a wrong order, a form without a bound or with a modulus, a cohort that keeps no distance or less than
                there are bands, or noise that cannot be kept exactly enough.
            InvalidInput: where neither the layer nor a budget says how much noise.
        """
        refuse_order("CorrelatedNoise", form, whole=True)
        rounds, size = gathering.rounds, form.layout.size
        apart = self._apart(form, gathering)
        z, most = multiplier("CorrelatedNoise", self.noise_multiplier, gathering), -(-rounds // apart)
        correlation = self._correlation(rounds, most, apart)
        moved = sensitivity(correlation.coefficients(rounds), rounds, most, apart) * (1 + _SLACK)
        sigma = z * (moved * bound(form, "CorrelatedNoise") + correlation.widest * math.sqrt((rounds - 1) * size))
        event = MatrixFactorisation(z, rounds, most, apart, min(rounds * size * STATISTICAL_DISTANCE, 0.5))
        fault = form.fault or _fault(sigma, correlation, rounds, gathering.most * (form.largest or 0.0))
        given = replace(form, noise="CorrelatedNoise", fault=fault)
        cost = Cost(event, None, event, "server", sigma * (form.grid or 1.0))
        return CorrelatedStage(given, sigma, correlation, rounds, cost=cost)

    def _apart(self, form: Form, gathering: Gathering) -> int:
        """The fewest rounds between two participations of a client. Raises Refused where it, or a modulus, does not fit."""
        apart = gathering.min_separation
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
        return apart

    def _correlation(self, rounds: int, most: int, apart: int) -> Bands | Buffers:
        if self.bands is not None:
            return Bands(tuple(int(c) for c in np.rint(square_root(min(self.bands, rounds)) * 2**_FRACTION)))
        return Buffers(*fitted_buffers(rounds, most, apart, self.buffers))


@dataclass(frozen=True)
class Bands:
    """With a banded C the earlier noise itself is kept. All is exact in int64, so E = 0.

    Attributes:
        weights: c_0 = 1, c_1, ... times 2^16, as whole numbers.
        widest: 1 + 2 E, the largest coordinate of e_t; see `CorrelatedNoise`.
    """

    weights: tuple[int, ...]
    widest: ClassVar[float] = 1.0

    def coefficients(self, rounds: int) -> Array:
        """float64: the first coefficients of C, 1, c_1, ...; for bands no more than there are, else `rounds`."""
        return np.array(self.weights, np.float64) * 2.0**-_FRACTION

    def init(self, size: int) -> Array:
        """int64[bands - 1, d]: no noise yet."""
        return np.zeros((len(self.weights) - 1, size), np.int64)

    def earlier(self, past: Array) -> Array:
        """int64[d]: q_t, which the fresh noise is lessened by."""
        total = np.full(past.shape[1], 1 << (_FRACTION - 1), np.int64)
        for weight, vector in zip(self.weights[1:], past, strict=True):
            total += weight * vector
        whole: Array = total >> _FRACTION
        return whole

    def after(self, past: Array, noise: Array) -> Array:
        """What is kept once this noise, int64[d], was added to a total."""
        kept: Array = np.concatenate([noise[None], past])[: len(past)]
        return kept

    def fits(self, fresh: float, rounds: int) -> bool:
        """Whether fresh noise of at most this size leaves every sum within 2^62."""
        gain = float(np.abs(inverse(self.coefficients(rounds), rounds)).sum())
        return (fresh + 1) * gain * sum(self.weights) < 2.0**62


@dataclass(frozen=True)
class Buffers:
    """With a buffered C a few weighted sums of the earlier noise are kept: s_i = sum_j decays_i^(j-1) w_{t-j}.

    The coefficients of C are c_j = sum_i scales_i decays_i^(j-1). All is float64, in steps s_i <- decays_i s_i + w_t of two
    roundings each. With |w| <= W every |s_i| is at most W / (1 - decays_i), so its errors add up to at most
    2^-52 W / (1 - decays_i)^2. The sum over i adds as many units of the last place as there are terms. `fits` demands that all
    this, E, is at most 1/4, with a factor of two to spare; the noise is sized for 1/2.

    Attributes:
        scales, decays: of each buffer.
        widest: 1 + 2 E for E = 1/2, the largest coordinate of e_t; see `CorrelatedNoise`.
    """

    scales: tuple[float, ...]
    decays: tuple[float, ...]
    widest: ClassVar[float] = 2.0

    def coefficients(self, rounds: int) -> Array:
        """float64: the first coefficients of C, 1, c_1, ...; for bands no more than there are, else `rounds`."""
        return buffered(np.array(self.scales), np.array(self.decays), rounds)

    def init(self, size: int) -> Array:
        """float64[buffers, d]: no noise yet."""
        return np.zeros((len(self.scales), size))

    def earlier(self, past: Array) -> Array:
        """int64[d]: q_t, which the fresh noise is lessened by."""
        total = np.zeros(past.shape[1])
        for scale, buffer in zip(self.scales, past, strict=True):
            total += scale * buffer
        return np.rint(total).astype(np.int64)

    def after(self, past: Array, noise: Array) -> Array:
        """What is kept once this noise, int64[d], was added to a total."""
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
class CorrelatedStage(Stage):
    """See `CorrelatedNoise`.

    State: "past", what `correlation` keeps; "coefficients", float64, the first ones of C; "round", int64[1], how many rounds were
    released.

    Attributes:
        sigma: deviation of the fresh noise, in steps of the grid.
        rounds: of the study.
    """

    sigma: float
    correlation: Bands | Buffers
    rounds: int

    def init(self) -> Arrays:
        """The state before the first round."""
        past, first = self.correlation.init(self.form.layout.size), self._first()
        return {"past": past, "coefficients": first, "round": np.zeros(1, np.int64)}

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        """int64[d], with this round's noise, and the state after it."""
        past, done = state["past"], int(state["round"][0]) + 1
        noise = rounded_gaussian(self.sigma, total.shape, random) - self.correlation.earlier(past)
        # After the last round nothing needs the noise any more. Noise that is not kept cannot be taken off.
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

    def not_covered(self) -> tuple[str, ...]:
        """What the kept noise, and accounting all rounds at once, leave open."""
        return (
            "The server keeps noise of the last rounds, in its checkpoint too: whoever reads it takes that noise off the totals.",
            "All rounds are accounted at once: a run that ends early has spent as much as a whole one.",
        )

    def _first(self) -> Array:
        return self.correlation.coefficients(self.rounds)[:_KEPT]


def _fault(sigma: float, correlation: Bands | Buffers, rounds: int, largest: float) -> str | None:
    """Why the numbers that are computed with noise of this size would not be exact enough, or None where they are."""
    if sigma <= LARGEST and largest < 2.0**61 and correlation.fits(reach(sigma, "gaussian"), rounds):
        return None
    return f"Noise of {sigma:.3g} steps of the grid cannot be kept exactly enough. Use Discretize(grid=...) with a coarser grid."
