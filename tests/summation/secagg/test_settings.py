"""`SecAgg` refuses settings that do not fit, whatever their type."""

from __future__ import annotations

import math

import pytest

import manent as mn
from manent.core.layers import Form
from manent.core.vectors import Block, Entry, Layout

WRONG = [None, "0.1", math.nan, True, [0.1]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("corrupt", "dropped") for value in (*WRONG, -0.1, 1, 1.0)],
        *[("minimum_cohort", value) for value in (*WRONG, 2, 0, 3.5)],
        *[(name, value) for name in ("graph", "adversary", "beacon") for value in (*WRONG, "other", "")],
    ],
    ids=repr,
)
def test_a_setting_that_does_not_fit_is_refused_by_name(name, value):
    with pytest.raises(mn.InvalidInput, match=rf"SecAgg expects .*{name}.*found "):
        mn.SecAgg(**{name: value})


def test_the_smallest_and_largest_settings_are_taken():
    assert mn.SecAgg(corrupt=0, dropped=0, minimum_cohort=3).minimum(10) >= 3
    assert mn.SecAgg(corrupt=0.999, dropped=0.0, adversary="curious", graph="complete", beacon="public").hiding.corrupt == 0.999


def test_the_ring_holds_what_noise_adds_to_every_number():
    layout = Layout((Block("v", (Entry("v", (4,)),)),))
    for largest, spread in ((1000, 0.0), (1000, 1e6), (3, 0.5)):
        most = 10 * (largest + math.ceil(spread))
        assert mn.SecAgg().bits(Form(layout, 1.0, largest=largest, spread=spread), 10) == 1 + most.bit_length()
