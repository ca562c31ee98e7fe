"""The checks of what is drawn at random can fail, and do not where they must not. Seeds are fixed."""

from __future__ import annotations

import numpy as np

from tests.statistics import chi_square_ok, deviation_ok, frequency_ok, uniform_ok, within

RNG = np.random.default_rng(0)


def test_they_let_the_law_pass_and_see_what_is_a_little_off():
    draws = RNG.normal(size=1_000_000)
    assert within(draws.mean(), 0, 1e-3)
    assert not within(draws.mean() + 0.01, 0, 1e-3)
    assert deviation_ok(draws, 1.0)
    assert not deviation_ok(draws, 1.01)
    assert deviation_ok(RNG.laplace(size=1_000_000), 2**0.5, kurtosis=6)
    counts = np.bincount(RNG.integers(0, 16, 1_000_000))
    assert uniform_ok(counts)
    counts[3] += 2500
    counts[4] -= 2500
    assert not uniform_ok(counts)
    assert not chi_square_ok([380, 620], [500, 500])
    assert frequency_ok(500_000, 1_000_000, 0.5)
    for hits in (490_000, 510_000):
        assert not frequency_ok(hits, 1_000_000, 0.5)


def test_an_alarm_is_as_rare_as_it_says():
    """At one in a hundred, of 20,000 checks each; 150 to 250 alarms are 3.5 deviations."""
    draws = RNG.normal(size=(20_000, 50))
    alarms = [not within(row.mean(), 0, 50**-0.5, alarm=0.01) for row in draws]
    counts = RNG.multinomial(1600, np.full(16, 1 / 16), 20_000)
    hits = RNG.binomial(10_000, 0.3, 20_000)
    for found in (
        alarms,
        [not uniform_ok(row, alarm=0.01) for row in counts],
        [not frequency_ok(int(n), 10_000, 0.3, alarm=0.01) for n in hits],
    ):
        assert 150 <= sum(found) <= 250
