"""What one release costs against each observer: one row for each place of the noise and each view of the vectors."""

from __future__ import annotations

import pytest

import manent as mn
from manent.core.layers import Cost
from manent.core.observers import OBSERVERS
from tests.privacy.studies import stack

VECTORS, TOTALS, RELEASED = "every client's vector", "the sum alone", "nothing but what is released"
ALL = dict.fromkeys(OBSERVERS, "event")
SERVER = ("server", "server and colluders")


@pytest.mark.parametrize("view", [VECTORS, TOTALS, RELEASED])
@pytest.mark.parametrize(
    ("where", "seen", "expected", "of_vectors"),
    [
        ("server", None, {**ALL, **dict.fromkeys(SERVER)}, None),
        ("each client", "seen", ALL, "seen"),
        ("shares", None, {**ALL, "clients": "beside"}, None),
    ],
)
def test_what_each_observer_learns(where, seen, expected, of_vectors, view):
    cost = Cost("event", seen, "beside", where, 1.0)
    for name in OBSERVERS:
        right = expected[name] if view != VECTORS or (where == "server" and name in SERVER) else of_vectors
        assert cost.seen_by(name, view)[0] == right, name
    assert cost.tells_number == (where != "server")


@pytest.mark.parametrize(
    ("noise", "where", "seen"),
    [
        (mn.CentralNoise(2.0), "server", False),
        (mn.LocalNoise(2.0), "each client", True),
        (mn.DistributedNoise(noise_multiplier=2.0), "shares", False),
    ],
)
def test_what_a_layer_says_of_single_vectors(noise, where, seen):
    cost = stack([mn.Clip(1.0), noise], 4, 8).noise.cost
    assert cost.where == where
    assert (cost.seen is not None) == seen
    if where == "shares":  # all eight answer, and each knows its own share
        assert (cost.event.parties, cost.beside.parties) == (8, 7)
