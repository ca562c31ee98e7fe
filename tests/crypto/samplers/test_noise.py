"""Integer noise against its laws.

Each statistical check is held to a share of FALSE_ALARM: a correct sampler fails this file less than once in 1e9 runs.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binomtest, chi2
from scipy.stats import skellam as scipy_skellam

from manent.core.errors import InvalidInput
from manent.crypto import InsecureTestRNG, SystemRandom
from manent.crypto.samplers.noise import STATISTICAL_DISTANCE, discrete_gaussian, discrete_laplace, rounded_gaussian, skellam
from manent.crypto.samplers.tables import CHUNK, Sampler

SIGMAS = (0.7, 1.0, 3.2, 10.0, 1e2, 1e4, 1e6)
KINDS = ("rounded", "discrete", "laplace", "skellam")
SAMPLES = 10_000_000

FALSE_ALARM = 1e-10
CHECKS = len(SIGMAS) * len(KINDS) * 5
LEVEL = FALSE_ALARM / CHECKS


def draw(kind, sigma, size, random):
    """Samples of a kind; the parameter is sigma, the scale of Laplace, or the square root of Skellam's variance."""
    if kind == "skellam":
        return skellam(sigma**2, size, random)
    return {"rounded": rounded_gaussian, "discrete": discrete_gaussian, "laplace": discrete_laplace}[kind](sigma, size, random)


def cumulative(kind, sigma, k):
    """P(X <= k), float64, for whole numbers k; the formulas are scipy's, or sums of the definition."""
    if kind == "laplace":
        q = math.exp(-1 / sigma)
        return np.where(k < 0, q ** -np.minimum(k, 0.0) / (1 + q), 1 - q ** (np.maximum(k, 0.0) + 1) / (1 + q))
    if kind == "rounded" or sigma >= 1e4:  # the others differ from it by less than 1 / sigma^2
        return ndtr((k + 0.5) / sigma)
    reach = math.ceil(20 * sigma) + 20
    grid = np.arange(-reach, reach + 1)
    mass = scipy_skellam.pmf(grid, sigma**2 / 2, sigma**2 / 2) if kind == "skellam" else np.exp(-(grid**2) / (2 * sigma**2))
    sums = np.cumsum(mass) / mass.sum()
    return sums[np.clip(k, -reach, reach).astype(int) + reach]


def chi_square_level(counts, chances):
    """Chance of a chi-square as large as that of the counts; cells that expect fewer than 100 are put into one."""
    expected = counts.sum() * chances
    rare = expected < 100
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 5:
        counts, expected = counts[:-1], expected[:-1]
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), counts.size - 1)


def law_level(samples, kind, sigma):
    """Chi-square of all samples over cells of a 13th of sigma, or of one integer, with the two ends open."""
    width = max(1, int(sigma / 13))
    reach = math.ceil((16 if kind == "laplace" else 6) * sigma / width) + 1
    cell = np.clip(np.floor_divide(samples, width), -reach - 1, reach) + reach + 1
    edges = np.arange(-reach, reach + 1) * width - 1
    sums = np.concatenate([[0.0], cumulative(kind, sigma, edges.astype(np.float64)), [1.0]])
    return chi_square_level(np.bincount(cell, minlength=2 * reach + 2), np.diff(sums))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_law(kind, sigma):
    """Of ten million: the whole by chi-square, both tails by exact binomials, and the lowest bits where they are uniform."""
    samples = draw(kind, sigma, SAMPLES, SystemRandom())
    assert law_level(samples, kind, sigma) > LEVEL
    tail = math.ceil((11 if kind == "laplace" else 4.5) * sigma)
    chance = float(cumulative(kind, sigma, np.array([-tail], np.float64))[0])
    for beyond in (samples <= -tail, samples >= tail):
        assert binomtest(int(beyond.sum()), SAMPLES, chance).pvalue > LEVEL
    if sigma >= (1e4 if kind == "laplace" else 1e2):
        width = 1 << int(math.log2(sigma / 16))  # at least twice a strip
        for bits in (samples & 15, (samples & (width - 1)) * 4 // width):
            counts = np.bincount(bits)
            assert chi_square_level(counts, np.full(counts.size, 1 / counts.size)) > LEVEL


def test_the_chi_square_sees_a_slightly_wrong_sigma():
    """The chi-square is 7 of its standard deviations above the critical value, here and in the next test."""
    assert law_level(rounded_gaussian(1.005e4, SAMPLES, SystemRandom()), "rounded", 1e4) < LEVEL


def test_the_chi_square_sees_a_comparison_left_out(monkeypatch):
    monkeypatch.setattr(Sampler, "accept", lambda self, strip, k, random: np.ones(k.size, bool))
    assert law_level(rounded_gaussian(8192.0, 3 * SAMPLES, SystemRandom()), "rounded", 8192.0) < LEVEL


@pytest.mark.parametrize("sigma", [0.7, 5.0, 300.0, 1e9])
@pytest.mark.parametrize("kind", KINDS)
def test_mean_variance_symmetry_and_independence(kind, sigma):
    """Within 7 standard errors (one in 4e11), in 112 checks: a false alarm once in 3e9 runs."""
    if kind == "skellam" and sigma > 2**25:
        sigma = 2.0**25
    samples = draw(kind, sigma, 1_000_000, SystemRandom()).astype(np.float64)
    n, q = samples.size, math.exp(-1 / sigma)
    k = np.arange(-40, 41)
    small = np.exp(-(k**2) / (2 * sigma**2))
    variance = {
        "rounded": sigma**2 + 1 / 12,
        "discrete": float((k**2 * small).sum() / small.sum()) if sigma < 1 else sigma**2,
        "laplace": 2 * q / (1 - q) ** 2,
        "skellam": sigma**2,
    }[kind]
    fourth = np.mean(samples**4)
    assert abs(samples.mean()) < 7 * math.sqrt(variance / n)
    slack = 1e-3 * variance if kind == "rounded" and sigma < 1 else 0.0  # 1/12 is the first term of a series
    assert abs(np.mean(samples**2) - variance) < 7 * math.sqrt((fourth - variance**2) / n) + slack
    assert abs(np.mean(samples**3)) < 7 * math.sqrt(np.mean(samples**6) / n)
    for lag in (1, 2, 4, CHUNK):
        assert abs(np.mean(samples[lag:] * samples[:-lag])) < 7 * variance / math.sqrt(n - lag)


def test_sums_of_skellam_shares_are_skellam():
    random = SystemRandom()
    total = sum(skellam(4.0 / 3, 1_000_000, random) for _ in range(3))
    assert law_level(total, "skellam", 2.0) > LEVEL


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_types(kind):
    random = SystemRandom()
    for size, shape in ((0, (0,)), (5, (5,)), ((), ()), ((3, 0), (3, 0)), ((2, CHUNK + 1), (2, CHUNK + 1))):
        drawn = draw(kind, 50.0, size, random)
        assert drawn.shape == shape
        assert drawn.dtype == np.int64


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_source_and_calls_give_the_same_samples(kind):
    first, second = (draw(kind, 1e4, CHUNK + 7, InsecureTestRNG(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (first != draw(kind, 1e4, CHUNK + 7, InsecureTestRNG(4))).any()


def test_a_forked_child_draws_other_noise():
    random = SystemRandom()
    rounded_gaussian(1e6, 10, random)
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, rounded_gaussian(1e6, 100, random).tobytes())
        os._exit(0)
    os.wait()
    child = np.frombuffer(os.read(read, 800), np.int64)
    assert not np.isin(child, rounded_gaussian(1e6, 100, random)).all()


@pytest.mark.parametrize("kind", ["rounded", "discrete", "laplace"])
def test_the_ends_of_the_range(kind):
    """Of the narrow draws one is further out with probability 3e-10 (Laplace), of the wide ones two are equal with 2e-10."""
    random = SystemRandom()
    assert set(np.unique(draw(kind, 2.0**-4, 10_000, random))) <= {-1, 0, 1}
    wide = draw(kind, 2.0**50, 1000, random)
    assert 2.0**48 < np.std(wide) < 2.0**52
    assert len(np.unique(wide)) == wide.size


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, 2.0**51, 1e-3, "much", None, 10**400])
@pytest.mark.parametrize("function", [rounded_gaussian, discrete_gaussian, discrete_laplace, skellam])
def test_a_parameter_out_of_range_is_refused(function, bad):
    with pytest.raises(InvalidInput, match="Expected"):
        function(bad, 3, SystemRandom())


@pytest.mark.parametrize("size", [-1, 2.5, (3, -1), "3"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(InvalidInput, match="size"):
        rounded_gaussian(1.0, size, SystemRandom())


def test_the_stated_distance_is_negligible_for_any_run():
    """A million rounds of ten billion coordinates leave delta as it was."""
    assert 10**16 * STATISTICAL_DISTANCE < 1e-30
    assert Fraction(STATISTICAL_DISTANCE) == Fraction(1, 2**160)
