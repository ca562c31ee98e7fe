"""What of a cohort's drawing is a secret, and from whom: one row for each kind of cohort."""

from __future__ import annotations

import pytest

import manent as mn
from manent import accounting as ac
from manent.privacy.cohorts import population_shown, sampling, secrecy
from manent.privacy.observers import Secrecy

POISSON, FIXED = ac.Poisson(0.1), ac.FixedSize(5, 20)
CUT, RARELY = ac.TruncatedPoisson(0.1, 3, 20), ac.TruncatedPoisson(0.1, 19, 20)


@pytest.mark.parametrize(
    ("cohort", "expected", "where_clients_remember"),
    [
        ({}, None, None),
        ({"size": 5}, FIXED, None),
        ({"size": 20}, None, None),
        ({"sampling_probability": 0.1}, POISSON, POISSON),
        ({"sampling_probability": 1.0}, None, None),
        ({"sampling_probability": 0.1, "maximum": 3}, CUT, None),
        ({"sampling_probability": 0.1, "maximum": 20}, ac.TruncatedPoisson(0.1, 20, 20), None),
        ({"sampling_probability": 0.1, "maximum": 21}, POISSON, None),
        ({"min_separation": 2}, None, None),
        ({"min_separation": 2, "size": 5}, None, None),
    ],
)
def test_how_a_cohort_is_secretly_drawn(cohort, expected, where_clients_remember):
    assert sampling(mn.Cohort(**cohort), 20) == expected
    assert sampling(mn.Cohort(**cohort), 20, remembers=True) == where_clients_remember


def test_who_knows_what_of_a_sample():
    """Noise that tells the number leaves only a fixed size a secret. What members know more is paid for."""
    assert secrecy(None, False, 3, 1e-5) == Secrecy()
    assert secrecy(POISSON, True, 3, 1e-5) == secrecy(CUT, True, 3, 1e-5) == Secrecy()
    assert secrecy(POISSON, False, 3, 1e-5) == Secrecy(POISSON, POISSON, 0.0)
    for tells in (False, True):
        assert secrecy(FIXED, tells, 3, 1e-5) == Secrecy(FIXED, ac.FixedSize(5, 19), 0.0)
    _, error = RARELY.known_to_member()
    assert 0 < error < 1e-15
    assert secrecy(RARELY, False, 3, 1e-5) == Secrecy(RARELY, POISSON, error)
    assert secrecy(CUT, False, 3, 1e-5) == Secrecy(CUT)
    assert secrecy(RARELY, False, 3, 12.01 * error) == Secrecy(RARELY, POISSON, error)
    assert secrecy(RARELY, False, 3, 11.99 * error) == Secrecy(RARELY)


@pytest.mark.parametrize(
    ("cohort", "tells", "secret", "words"),
    [
        ({}, False, True, None),
        ({}, True, True, "noise of its own"),
        ({"size": 5}, False, True, "fixed size"),
        ({"min_separation": 2}, False, True, "take turns"),
        ({"sampling_probability": 0.1}, False, False, None),
        ({"sampling_probability": 0.1}, True, False, "noise of its own"),
        ({"sampling_probability": 0.1, "maximum": 3}, False, True, None),
        ({"sampling_probability": 0.1, "maximum": 3}, False, False, "is cut"),
    ],
)
def test_what_shows_one_client_more_or_less(cohort, tells, secret, words):
    found = population_shown(mn.Cohort(**cohort), tells, secret)
    assert found is None if words is None else words in found
