"""From real numbers to whole ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import manent as mn
from manent.accounting import rounded_norm
from manent.core.layers import Form, Gathering
from manent.crypto import InsecureTestRNG
from manent.layers import rotation
from tests.privacy.studies import spec, stack, vectors

RANDOM = InsecureTestRNG(1)
KINDS = {
    "fine": mn.Discretize(),
    "fine, rotated": mn.Discretize(rotation=True),
    "coarse": mn.Discretize(grid=0.01),
    "coarse, towards zero": mn.Discretize(grid=0.01, rounding="towards_zero"),
    "coarse, rotated": mn.Discretize(grid=0.01, rotation=True),
    "20 bits": mn.Discretize(bits=20, rotation=True),
}


@pytest.mark.parametrize("layer", KINDS.values(), ids=list(KINDS))
@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, 9, elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_the_integer_norm_is_within_the_bound_exactly(layer, row):
    made = stack([mn.Clip(1.0), layer], 9)
    out = made.client(row[None], made.sends(made.init()), RANDOM)
    assert out.dtype == np.int64
    assert sum(int(k) ** 2 for k in out[0]) <= math.floor(made.form.l2**2)
    assert max(abs(int(k)) for k in out[0]) <= made.form.largest


@pytest.mark.parametrize("layer", KINDS.values(), ids=list(KINDS))
def test_what_nothing_clipped_is_brought_within_the_bound_all_the_same(layer):
    made = stack([mn.Clip(1.0), layer], 9)
    stage = made.stages[-1]
    out = stage.client(vectors(1, 9, scale=50.0), stage.sends(stage.init()), RANDOM)
    assert sum(int(k) ** 2 for k in out[0]) <= math.floor(made.form.l2**2)


def test_the_first_norm_is_held_exactly_too():
    made = stack([mn.Clip(1.0, order=1), mn.Discretize()], 9)
    for row in vectors(50, 9):
        assert sum(abs(int(k)) for k in made.client(row[None], {}, RANDOM)[0]) <= made.form.l1 == 2**24


@pytest.mark.parametrize("layer", KINDS.values(), ids=list(KINDS))
def test_the_sum_comes_back_up_to_the_grid(layer):
    made = stack([mn.Clip(1.0), layer], 37)
    rows = vectors(20, 37, scale=0.05)
    back, _ = made.server(made.client(rows, made.sends(made.init()), RANDOM).sum(0), made.init(), RANDOM)
    grid = made.form.grid
    np.testing.assert_allclose(back, rows.sum(0, dtype=np.float64), atol=20 * grid * (1 if not layer.rotation else 3))


def test_stochastic_rounding_is_unbiased_and_bounded_as_in_the_paper():
    made = stack([mn.Clip(1.0), mn.Discretize(grid=0.05)], 4)
    assert made.form.l2 == pytest.approx(rounded_norm(20, 4))
    row = np.array([[0.313, -0.42, 0.018, 0.0]], np.float32)
    mean = np.mean([made.client(row, {}, InsecureTestRNG(seed))[0] for seed in range(4000)], 0) * 0.05
    np.testing.assert_allclose(mean, row[0], atol=4 * 0.05 / 2 / math.sqrt(4000))


def test_bits_choose_a_grid_on_which_the_sum_and_its_noise_fit():
    made = stack([mn.Clip(1.0), mn.Discretize(bits=16, rotation=True), mn.DistributedNoise(noise_multiplier=1.0)], 1000, 100)
    rows = np.tile(vectors(1, 1000), (100, 1))
    total = made.client(rows, made.sends(made.init()), RANDOM).sum(0)
    assert np.abs(total).max() < 2**15  # false with probability 2^-40
    wrapped = (total + 2**15) % 2**16 - 2**15
    first, second = (made.server(t, made.init(), RANDOM)[0] for t in (total, wrapped + 2**16))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(mn.Refused, match="bits cannot hold"):
        stack([mn.Clip(1.0), mn.Discretize(bits=4), mn.DistributedNoise(noise_multiplier=1.0)], 1000, 100)


@settings(max_examples=30, deadline=None)
@given(st.one_of(st.integers(1, 9000), st.integers(9000, 600_000)))
def test_the_rotation_keeps_norms_and_is_undone(size):
    row = np.random.default_rng(size).normal(size=(1, size))
    turned = rotation.rotate(row)
    assert turned.shape == (1, rotation.padded(size))
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(row), rel=1e-9)
    np.testing.assert_allclose(rotation.unrotate(turned[0], size), row[0], atol=1e-9)


@pytest.mark.parametrize("size", [4096, 2**16, 2**18, 2**19])
def test_the_rotation_spreads_a_spike_over_its_block(size):
    row = np.zeros((1, size))
    row[0, 17] = 1.0
    found, block = np.abs(rotation.rotate(row))[0], min(size, rotation.LARGEST)
    assert rotation.block(size) == block
    np.testing.assert_allclose(found[:block], 1 / math.sqrt(block))
    assert not found[block:].any()


@settings(max_examples=200)
@given(st.integers(4097, 10**8))
def test_large_blocks_pad_little(size):
    block, rest = rotation.block(size), rotation.padded(size) - size
    assert block in [2**bits for bits in range(12, 19)]
    assert 0 <= rest < 4096 or rest <= size / 16
    assert rotation.padded(size) % block == 0


def test_a_grid_beyond_reason_is_refused():
    for grid in (1e-9, 2.0):
        with pytest.raises(mn.Refused, match="steps of the grid"):
            stack([mn.Clip(1.0), mn.Discretize(grid=grid)], 4)
    with pytest.raises(mn.Refused, match=r"Put Clip\(norm\)"):
        mn.Discretize().enter(Form(spec(4).layout), Gathering(1.0, 1, 1))
    with pytest.raises(mn.Refused, match="Euclidean norm only"):
        stack([mn.Clip(1.0, order=1), mn.Discretize(rotation=True)], 4)
    for bad in ({"grid": 0}, {"bits": 3}, {"rounding": "up"}):
        with pytest.raises(mn.InvalidInput, match="Discretize expects"):
            mn.Discretize(**bad)
