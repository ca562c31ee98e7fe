"""Checks of what is drawn at random, each with its false alarm: how often a right program fails it.

A check that would stop the suite alarms falsely less than once in 1e9 runs. So the default here is 1e-10 a check, and what is
lost in power is made up for by more draws. Where draws follow from a seed that is written in the test, a check passes for ever or
never, and needs none of this.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom, chi2, norm

ALARM = 1e-10


def within(found, expected, stderr, alarm=ALARM):
    """Whether a number that is about normal is as near to its mean as its standard error allows."""
    return bool(abs(found - expected) <= norm.isf(alarm / 2) * stderr)


def chi_square_ok(observed, expected, alarm=ALARM):
    """Whether counts are as near to the expected ones as the chi-square law allows. Each expects at least 5, better 100."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    assert expected.min() >= 5
    assert math.isclose(observed.sum(), expected.sum(), rel_tol=1e-9)
    return bool(((observed - expected) ** 2 / expected).sum() <= chi2.isf(alarm, expected.size - 1))


def uniform_ok(observed, alarm=ALARM):
    """`chi_square_ok` for cells that are equally likely."""
    return chi_square_ok(observed, np.full(len(observed), np.sum(observed) / len(observed)), alarm)


def frequency_ok(hits, draws, chance, alarm=ALARM):
    """Whether so many of these draws may have hit, each with this chance: by the exact binomial law, both tails together."""
    return bool(binom.cdf(hits, draws, chance) > alarm / 2 and binom.sf(hits - 1, draws, chance) > alarm / 2)


def deviation_ok(draws, stddev, kurtosis=3.0, alarm=ALARM):
    """Whether draws of mean 0 have this standard deviation. Their kurtosis (6 for Laplace, 3 for a Gaussian) tells the error."""
    error = math.sqrt((kurtosis - 1) / np.size(draws))
    return within(float(np.mean(np.square(np.asarray(draws, float) / stddev))), 1.0, error, alarm)
