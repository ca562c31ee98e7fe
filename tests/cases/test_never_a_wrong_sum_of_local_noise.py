"""A ring holds what clients send with all their own noise in it, not their clipped vectors alone."""

from __future__ import annotations

import math

import pytest

import manent as mn
from manent.privacy import resolve
from manent.summation.secagg.settings import ring_bits
from tests.cases.observed import Give, units


@pytest.mark.parametrize(("mechanism", "order", "deviations"), [("gaussian", 2, 13.0), ("laplace", 1, 90.0)])
def test_the_ring_of_secure_sums_holds_local_noise(mechanism, order, deviations):
    """A draw is beyond so many deviations (scales) with probability below 2^-120, and then each of 30 clients may add one."""
    hidden = mn.SecAgg(modelled=True, corrupt=0.0, dropped=0.0)
    layers = [mn.Clip(1.0, order=order), mn.LocalNoise(50.0, mechanism)]
    form = resolve(mn.Study(Give(4), 1, mn.Cohort(), layers, hidden), units(30)).stacks["train"].form
    assert form.grid is not None
    assert form.reach is not None
    largest = (1 + deviations * 50.0) / form.grid
    assert form.reach >= largest
    assert ring_bits(form, 30) >= math.log2(2 * 30 * largest)
