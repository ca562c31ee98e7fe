"""Poisson batches and noise on clipped sums: what an example can change, and the laws of what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from manent.core.errors import InvalidInput
from manent.core.training.dpsgd import SUM_SLACK, clip_factors
from manent.crypto.random import InsecureTestRNG
from manent.crypto.samplers.gradients import ExactDraws, grid_bits, grid_sensitivity, on_grid, sampler_error

FALSE_ALARM = 1e-6  # of each statistical test here, were the seeds not fixed: so each passes for ever, or fails for ever


def clipped(gradients: np.ndarray, clip_norm: float, order: np.ndarray, parts: int) -> np.ndarray:
    """A sum as `core.training.dpsgd` asks for, with the rows in some order and in some number of parts."""
    each = gradients[order].astype(np.float64)
    factors = clip_factors(np.einsum("np,np->n", each, each), clip_norm)
    kept = factors > 0
    weighted = np.where(kept[:, None], each, 0.0) * factors[:, None]
    total = np.zeros(gradients.shape[1])
    for part in np.array_split(weighted, parts):
        total += part.sum(axis=0)
    return total


sizes = st.tuples(st.integers(1, 60), st.integers(1, 40))


@settings(max_examples=300, deadline=None)
@given(sizes, st.floats(-30, 30), st.floats(-30, 30), st.integers(0, 2**32 - 1), st.booleans())
def test_one_example_changes_the_integers_by_at_most_the_sensitivity(size, log_clip, log_scale, seed, aligned):
    """In exact integers; whatever the order and the parts, and even where all gradients point the same way."""
    (rows, parameters), clip_norm = size, 2.0**log_clip
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal((rows, parameters)) * 2.0**log_scale * rng.lognormal(0, 3, (rows, 1))
    if aligned:
        gradients = np.abs(gradients)
    gradients = gradients.astype(np.float32)
    left_out = int(rng.integers(rows))
    others = np.delete(np.arange(rows), left_out)
    with_it = on_grid(clipped(gradients, clip_norm, rng.permutation(rows), int(rng.integers(1, 5))), clip_norm)
    without = on_grid(clipped(gradients, clip_norm, rng.permutation(others), int(rng.integers(1, 5))), clip_norm)
    square = sum((int(a) - int(b)) ** 2 for a, b in zip(with_it, without, strict=True))
    bound = grid_sensitivity(parameters)
    assert square <= bound**2
    assert bound <= 2.0 ** grid_bits(parameters) * (1 + 2 * SUM_SLACK) + 2 * math.sqrt(parameters)


def test_the_bound_is_hardly_above_what_an_example_does():
    """The noise is measured against it, so it must not be loose either."""
    for parameters in (1, 1000, 10**6, 10**8):
        assert 1 < grid_sensitivity(parameters) / 2.0 ** grid_bits(parameters) < 1.003
    gradients = np.zeros((5, 3), np.float32)
    gradients[0, 0] = 100.0
    one = on_grid(clipped(gradients, 2.0, np.arange(5), 1), 2.0)
    assert one[0] == 2 ** grid_bits(3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_what_is_no_clipped_sum_gets_no_noise(value):
    with pytest.raises(InvalidInput, match="clipped gradients"):
        ExactDraws(InsecureTestRNG(0)).noisy(np.array([0.0, value]), 1.0, 1.0)


@pytest.mark.parametrize(("clip_norm", "z", "parameters"), [(1.0, 1.0, 200_000), (0.01, 3.0, 200_000), (50.0, 0.05, 100_000)])
def test_noise_has_the_declared_deviation_around_the_sum(clip_norm, z, parameters):
    """The mean by its normal law, the variance by chi-square."""
    total = np.linspace(-clip_norm, clip_norm, parameters)
    noise = (ExactDraws(InsecureTestRNG(7)).noisy(total, clip_norm, z) - total) / clip_norm
    deviation = z * grid_sensitivity(parameters) / 2.0 ** grid_bits(parameters)
    assert z <= deviation <= z * 1.003
    scaled = (noise / deviation) ** 2
    assert FALSE_ALARM / 2 < stats.chi2.cdf(scaled.sum(), parameters) < 1 - FALSE_ALARM / 2
    assert abs(noise.mean()) < stats.norm.isf(FALSE_ALARM / 2) * deviation / math.sqrt(parameters)


def test_what_is_released_lies_on_one_grid_whatever_the_data():
    """Its last bits tell nothing of the sum that the noise was added to: floating-point noise would (Mironov 2012)."""
    draws, step = ExactDraws(InsecureTestRNG(3)), 0.7 / 2.0 ** grid_bits(500)
    for total in (np.zeros(500), np.full(500, 0.7 / 3), np.full(500, 1e-9), np.random.default_rng(0).normal(0, 0.3, 500)):
        released = draws.noisy(total, 0.7, 1.0)
        np.testing.assert_array_equal(released, np.rint(released / step).astype(np.int64) * step)


def test_two_draws_differ_and_a_test_source_repeats_them():
    draws = ExactDraws(InsecureTestRNG(5))
    first, second = draws.noisy(np.zeros(50), 1.0, 1.0), draws.noisy(np.zeros(50), 1.0, 1.0)
    assert np.all(first != second)
    np.testing.assert_array_equal(ExactDraws(InsecureTestRNG(5)).noisy(np.zeros(50), 1.0, 1.0), first)
    assert not draws.secure


def batch_size_p_value(sizes: list[int], examples: int, q: float) -> float:
    """Chi-square of batch sizes against the binomial law, in bins of at least ten expected."""
    law, rounds = stats.binom(examples, q), len(sizes)
    edges = [-1]
    while edges[-1] < examples:
        upper = next(
            (k for k in range(edges[-1] + 1, examples + 1) if rounds * (law.cdf(k) - law.cdf(edges[-1])) >= 10), examples
        )
        edges.append(examples if rounds * law.sf(upper) < 10 else upper)
    expected = rounds * np.diff(law.cdf(edges))
    found = np.histogram(sizes, np.array(edges) + 0.5)[0]
    return float(stats.chi2.sf(((found - expected) ** 2 / expected).sum(), len(expected) - 1))


@pytest.mark.parametrize(("examples", "q"), [(200, 0.02), (500, 0.3), (1000, 0.0015)])
def test_batches_are_poisson(examples, q):
    draws, rounds = ExactDraws(InsecureTestRNG(11)), 4000
    batches = [draws.rows(q, examples) for _ in range(rounds)]
    sizes = [len(batch) for batch in batches]
    assert batch_size_p_value(sizes, examples, q) > FALSE_ALARM
    # Every row is in as often as every other, and rows are in independently of each other.
    inside = np.zeros((rounds, examples))
    for row, batch in zip(inside, batches, strict=True):
        row[batch] = 1
    statistic = ((inside.sum(axis=0) - rounds * q) ** 2).sum() / (rounds * q * (1 - q))
    assert FALSE_ALARM / 2 < stats.chi2.cdf(statistic, examples) < 1 - FALSE_ALARM / 2
    assert all(np.all(np.diff(batch) > 0) for batch in batches if len(batch))
    if q * examples < 5:
        assert 0 in sizes  # empty batches happen


def test_batches_of_one_size_would_be_found_out():
    """What passes for Poisson elsewhere: shuffled passes in batches of the expected size."""
    assert batch_size_p_value([4] * 4000, 200, 0.02) < FALSE_ALARM


def test_certain_and_impossible_rows():
    draws = ExactDraws(InsecureTestRNG(1))
    np.testing.assert_array_equal(draws.rows(1.0, 6), np.arange(6))
    assert len(draws.rows(0.5, 0)) == 0


def test_the_sampler_leaves_delta_alone():
    assert sampler_error(10**9) < 1e-30
