"""A Poisson cohort is exactly those whose own number is below the probability, however many they are."""

from __future__ import annotations

import numpy as np
import pytest

from manent.core.study import Cohort


class Numbers:
    """A generator that gives chosen numbers in [0, 1)."""

    def __init__(self, numbers):
        self.numbers = np.asarray(numbers, np.float64)

    def random(self, count):
        assert count == len(self.numbers)
        return self.numbers


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 1.0])
def test_a_cohort_may_be_everyone_or_nobody(probability):
    """A cohort is never cut, where no maximum is declared: the probability of a large one is part of the accounting."""
    cohort = Cohort(sampling_probability=probability)
    assert cohort.draw(1000, Numbers(np.zeros(1000))) == tuple(range(1000))
    if probability < 1:
        assert cohort.draw(1000, Numbers(np.full(1000, probability))) == ()


def test_each_client_is_in_by_its_own_number_alone():
    numbers = np.random.default_rng(0).random(500)
    expected = tuple(int(i) for i in np.flatnonzero(numbers < 0.3))
    assert Cohort(sampling_probability=0.3).draw(500, Numbers(numbers)) == expected
