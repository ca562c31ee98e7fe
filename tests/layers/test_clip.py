"""Clipping, fixed and adaptive."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import manent as mn
from manent.core.layers import Gathering
from manent.crypto import InsecureTestRNG
from manent.layers.adaptive import update_multiplier
from tests.privacy.studies import spec, stack, vectors

RANDOM = InsecureTestRNG(0)
ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)


def clipped(rows, norm=1.0, order=2):
    return stack([mn.Clip(norm, order)], rows.shape[1]).client(rows, {}, RANDOM)


def test_one_norm_over_the_whole_vector_not_one_a_block():
    rows = np.full((1, 10), 5.0, np.float32)
    out = clipped(rows)
    assert np.linalg.norm(out.astype(np.float64)) == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose(out / out[0, 0], rows / rows[0, 0])


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, 7, elements=ANY), st.floats(1e-6, 1e6), st.sampled_from([1, 2]))
def test_any_vector_ends_within_the_bound_and_a_short_one_stays(row, norm, order):
    out = clipped(row[None], norm, order)[0].astype(np.float64)
    assert np.isfinite(out).all()
    assert np.linalg.norm(out, order) <= norm * (1 + 1e-12)
    if not np.isfinite(row).all():
        assert not out.any()
    elif np.linalg.norm(row.astype(np.float64), order) <= norm:
        np.testing.assert_array_equal(out, row)


def test_zero_stays_zero_and_huge_numbers_are_clipped():
    assert not clipped(np.zeros((1, 4), np.float32)).any()
    out = clipped(np.array([[1e300, 1e300, -1e300, 0.0]]))
    np.testing.assert_allclose(out, [[3**-0.5, 3**-0.5, -(3**-0.5), 0]])


def test_a_long_vector_is_measured_whole():
    rows = vectors(1, 100_003)
    assert np.linalg.norm(clipped(rows, 2.0)) == pytest.approx(2.0, rel=1e-10)


@pytest.mark.parametrize("bad", [{"norm": 0}, {"norm": math.nan}, {"norm": -1}, {"norm": 1, "order": 3}])
def test_what_is_no_norm_is_refused(bad):
    with pytest.raises(mn.InvalidInput, match="Clip expects"):
        mn.Clip(**bad)


def follow(quantile, initial, rounds=200, clients=40, z=0.3):
    """The clip norm after some rounds of clients whose norms are 0.5, 1.5, ..., 39.5, with its noise."""
    layers = [mn.AdaptiveClip(quantile, initial=initial), mn.CentralNoise(z)]
    made = stack(layers, 3, clients)
    state = made.init()
    rows = np.zeros((clients, 3), np.float32)
    rows[:, 1] = np.arange(clients) + 0.5
    found, random = [], InsecureTestRNG(0)
    for _ in range(rounds):
        total = made.client(rows, made.sends(state), random).sum(0)
        result, state = made.server(total, state, random)
        assert result.shape == (3,)
        found.append(float(state["layer.0.norm"][0]))
    return found


def test_the_adaptive_norm_converges_to_the_quantile_from_both_sides():
    for quantile, target in ((0.5, 20.0), (0.8, 32.0)):
        low, high = follow(quantile, 0.1), follow(quantile, 1e3)
        assert low[0] > 0.1
        assert high[0] < 1e3
        for path in (low, high):
            assert np.mean(path[-50:]) == pytest.approx(target, rel=0.12)


def test_the_bit_and_the_update_share_the_noise_as_in_the_paper():
    assert update_multiplier(1.0, 100 / 20) == pytest.approx(1.00504, abs=1e-5)
    made = stack([mn.AdaptiveClip(count_stddev=5.0), mn.CentralNoise(1.0)], 3, 100)
    # Noise of the isotropic release, in units of C for the update and of one client for the count.
    assert made.noise.cost.stddev == pytest.approx(1.00504, abs=1e-5)
    random = InsecureTestRNG(0)
    totals = np.array([made.server(np.zeros(4, np.int64), made.init(), random)[0] for _ in range(1500)])
    assert totals.std() == pytest.approx(1.00504 * 0.1, rel=0.05)


def test_the_vector_with_its_bit_is_within_the_bound_and_a_broken_one_is_all_zeros():
    made = stack([mn.AdaptiveClip(initial=2.0)], 5)
    rows = vectors(50, 5)
    rows[7, 2] = np.nan
    out = made.client(rows, made.sends(made.init()), RANDOM)
    assert (np.linalg.norm(out, axis=1) <= made.form.l2 * (1 + 1e-12)).all()
    assert not out[7].any()
    inside = np.linalg.norm(rows.astype(np.float64), axis=1) <= 2
    assert inside.any()
    np.testing.assert_array_equal(out[:, -1] > 0, inside)


def test_noise_beyond_what_the_bit_can_carry_is_refused():
    with pytest.raises(mn.Refused, match="Raise count_stddev"):
        stack([mn.AdaptiveClip(), mn.CentralNoise(3.0)], 3, 20)


def test_the_norm_lies_in_the_statement_of_forms():
    stage = mn.Clip(2.5).enter(stack([], 4).form, Gathering(1.0, 1, 1))
    assert (stage.form.l2, stage.form.l1, stage.form.largest) == (2.5, None, 2.5)
    assert mn.Clip(2.5, order=1).enter(stack([], 4).form, Gathering(1.0, 1, 1)).form.l1 == 2.5
    assert spec(4).scalable
