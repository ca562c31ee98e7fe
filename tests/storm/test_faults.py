"""Settings of a storm."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from manent.core.errors import InvalidInput
from manent.storm import Faults

CHANCES = ("drop", "duplicate", "lost_response", "outage", "crash", "crash_for_good", "unsynced")


def test_drawn_settings_have_each_fault_off_and_on_and_are_repeatable():
    drawn = [Faults.draw(np.random.default_rng(seed)) for seed in range(200)]
    for name in CHANCES:
        off = sum(getattr(faults, name) == 0 for faults in drawn)
        assert 60 < off < 140, name
    assert drawn[3] == Faults.draw(np.random.default_rng(3))


def test_nothing_goes_wrong_in_none_and_all_does_in_harsh_until_it_is_calm():
    assert not any(getattr(Faults.none(), name) for name in CHANCES)
    assert all(getattr(Faults.harsh(), name) for name in CHANCES)
    calm = Faults.harsh().calm()
    assert [name for name in CHANCES if getattr(calm, name)] == ["crash_for_good"]  # of crashes: there are none
    assert calm.delay == Faults.harsh().delay


@pytest.mark.parametrize(
    "wrong",
    [{"drop": 1.1}, {"crash": -0.1}, {"torn": float("nan")}, {"delay": (2.0, 1.0)}, {"delay": (-1.0, 1.0)},
     {"restart_after": (0.0, float("inf"))}, {"until": -1.0}],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Faults(**wrong)


def test_it_is_shown_whole():
    assert all(field.name in str(Faults.harsh()) for field in fields(Faults))
