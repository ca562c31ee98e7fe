"""Factorisations A = B C of prefix sums, where A is the lower triangle of ones: the mathematics of correlated noise.

The rounds' values x are encoded as C x, and independent Gaussian noise z is added. B turns this into all prefix sums at once:
B (C x + z) = A x + B z = A (x + C^-1 z). So each round's own value gets the correlated noise C^-1 z, and the release is
post-processing of the Gaussian mechanism on C x, whose noise is measured against the sensitivity of C (Li, Miklau, Hay,
McGregor, Rastogi 2015, "The matrix mechanism"; Denisov, McMahan, Rush, Smith, Thakurta 2022, "Improved Differential Privacy for
SGD via Optimal Private Linear Operators on Adaptive Streams").

All matrices here are lower triangular Toeplitz: the coefficients of the first column say everything, and no matrix is formed.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.vectors import Array

LONGEST = 10**7
"""The most rounds that noise is correlated over; each takes a coefficient."""
_SLOWEST = 2.0**-11  # a fitted buffer loses at least this share of itself in a round


def square_root(count: int) -> Array:
    """float64[count], the first coefficients of A^(1/2): binomial(-1/2, k) (-1)^k, from 1 downwards.

    With count = rounds this is the factorisation of Fichtenberger, Henzinger, Upadhyay 2023, "Constant Matters: Fine-grained
    Error Bound on Differentially Private Continual Observation". For one participation no other Toeplitz factorisation has a
    smaller `error` (Dvijotham, McMahan, Pillutla, Steinke, Thakurta 2024, see `buffered`). With fewer it is the banded one of
    Kalinin, Lampert 2024, "Banded Square Root Matrix Factorization for Differentially Private Model Training".

    Raises InvalidInput for a count below 1.
    """
    validate.count("square_root", "count", count)
    validate.within("square_root", "count", count, 1, LONGEST)
    k = np.arange(1, count)
    return np.concatenate([[1.0], np.cumprod((2 * k - 1) / (2 * k))])


def square_root_error(rounds: int) -> float:
    """`error` of `square_root(rounds)` for one participation, in linear time: B and C are the same matrix."""
    c = square_root(rounds)
    return float(c @ c)


def inverse(coefficients: Array, rounds: int) -> Array:
    """float64[rounds], the coefficients of C^-1, from those of C, in time rounds * coefficients.

    Args:
        coefficients: of C; the first is not zero, and those that are left out are zeros.
    """
    from scipy.signal import lfilter

    impulse = np.zeros(rounds)
    impulse[0] = 1.0
    return np.asarray(lfilter([1.0], np.asarray(coefficients, np.float64)[:rounds], impulse), np.float64)


def sensitivity(coefficients: Array, rounds: int, participations: int = 1, min_separation: int = 1) -> float:
    """How far one unit can move C x: the largest Frobenius norm of C u over its contributions u, each row of norm at most 1.

    Of the rows of u at most `participations` are not zero, and those are at least `min_separation` apart. For coefficients that
    are >= 0 and never grow, the worst case is equal rows that come as early, and as close together, as they may (Kalinin,
    Lampert 2024, Theorem 2; C^T C >= 0 makes equal rows the worst: Choquette-Choo, McMahan, Rush, Thakurta 2023, "Multi-Epoch
    Matrix Factorization Mechanisms for Private Machine Learning", section 2). With at most min_separation coefficients, the
    columns of one unit share no row, and the answer is at most sqrt(participations) times the first column's norm
    (Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu 2023, "(Amplified) Banded Matrix Factorization: A unified
    approach to private training").

    Raises InvalidInput for coefficients that are negative or grow, and for participations that do not fit into the rounds.
    """
    validate.within("sensitivity", "rounds", rounds, 1, LONGEST)
    c = np.asarray(coefficients, np.float64)[:rounds]
    if (c < 0).any() or (np.diff(c) > 0).any():
        raise InvalidInput("sensitivity expects coefficients >= 0 that never grow; a closed form is known for those alone.")
    if (participations - 1) * min_separation >= rounds:
        raise InvalidInput(f"{participations} participations, {min_separation} rounds apart, do not fit into {rounds} rounds.")
    # One line of the table is min_separation rounds. Summing down adds one participation after another, up to the most.
    stretches = np.zeros((-(-rounds // min_separation), min_separation))
    stretches.reshape(-1)[: len(c)] = c
    sums = stretches.cumsum(0)
    sums[participations:] -= sums[:-participations].copy()
    column = sums.reshape(-1)[:rounds]
    return math.sqrt(float(column @ column))


def largest_row(coefficients: Array, rounds: int) -> float:
    """The largest norm of a row of B = A C^-1: the standard deviation of the worst prefix sum, for noise of deviation 1."""
    row = np.cumsum(inverse(coefficients, rounds))
    return math.sqrt(float(row @ row))


def error(coefficients: Array, rounds: int, participations: int = 1, min_separation: int = 1) -> float:
    """The worst prefix sum's standard deviation, for a noise multiplier of 1: `sensitivity` times `largest_row`."""
    return sensitivity(coefficients, rounds, participations, min_separation) * largest_row(coefficients, rounds)


def tree_error(rounds: int) -> float:
    """`error` of a binary tree of partial sums, for one participation, to compare with (Dwork, Naor, Pitassi, Rothblum 2010).

    A value lies in one node of each level. A prefix is a sum of as many nodes as its length has binary ones.

    Raises InvalidInput for rounds below 1.
    """
    validate.count("tree_error", "rounds", rounds)
    levels = (rounds - 1).bit_length() + 1
    most = max(rounds.bit_count(), (1 << (rounds.bit_length() - 1)).bit_length() - 1)
    return math.sqrt(levels * most)


def buffered(scales: Array, decays: Array, rounds: int) -> Array:
    """float64[rounds], the coefficients of a buffered linear Toeplitz (BLT) matrix: 1, and then sum_i scales_i decays_i^(k-1).

    Dvijotham, McMahan, Pillutla, Steinke, Thakurta 2024, "Efficient and Near-Optimal Noise Generation for Streaming
    Differential Privacy". They never grow where all scales are > 0, their sum is below 1, and all decays are in (0, 1).

    Args:
        scales, decays: [buffers] each.
    """
    powers = np.asarray(decays)[:, None] ** np.arange(rounds - 1)
    return np.concatenate([[1.0], (np.asarray(scales)[:, None] * powers).sum(0)])


def buffered_inverse(scales: Array, decays: Array, rounds: int) -> Array:
    """float64[rounds], the coefficients of the inverse of `buffered`, in time rounds * buffers, as a quotient of polynomials."""
    from scipy.signal import lfilter

    above = np.poly(decays)
    below = above.astype(np.float64)
    for i, scale in enumerate(scales):
        below[1:] += scale * np.poly(np.delete(decays, i))
    impulse = np.zeros(rounds)
    impulse[0] = 1.0
    return np.asarray(lfilter(above, below, impulse), np.float64)


def buffered_error(scales: Array, decays: Array, rounds: int, participations: int = 1, min_separation: int = 1) -> float:
    """`error` of the `buffered` matrix."""
    row = np.cumsum(buffered_inverse(scales, decays, rounds))
    moved = sensitivity(buffered(scales, decays, rounds), rounds, participations, min_separation)
    return moved * math.sqrt(float(row @ row))


@lru_cache(maxsize=64)
def fitted_buffers(
    rounds: int, participations: int, min_separation: int, buffers: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(scales, decays) of so many buffers that make `buffered_error` small. A numeric search finds them; none proves them best.

    McMahan, Xu, Zhang 2024, "A Hassle-free Algorithm for Strong Differential Privacy in Federated Learning Systems".
    """
    from scipy.optimize import minimize

    validate.within("fitted_buffers", "rounds", rounds, 1, LONGEST)

    def unpack(point: Array) -> tuple[Array, Array]:
        raw = np.exp(point[buffers:])
        return raw / (1 + raw.sum()), 1 / (1 + np.exp(-point[:buffers]))

    def objective(point: Array) -> float:
        return math.log(buffered_error(*unpack(point), rounds, participations, min_separation))

    # A memory longer than the run gains nothing, and a very long one costs precision.
    slowest = max(1 / (rounds + 1), _SLOWEST)
    decays = 1 - np.geomspace(slowest, 0.5, buffers) if buffers > 1 else np.array([0.9])
    start = np.concatenate([np.log(decays / (1 - decays)), np.full(buffers, math.log(0.5 / buffers))])
    limits = [(-6.0, math.log(1 / slowest - 1))] * buffers + [(-12.0, 6.0)] * buffers
    scales, decays = unpack(minimize(objective, start, method="L-BFGS-B", bounds=limits).x)
    return tuple(map(float, scales)), tuple(map(float, decays))
