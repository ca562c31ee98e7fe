"""Vectors longer than a piece of the work, several rows in one call, and rounds that are left out."""

from __future__ import annotations

import math

import numpy as np
import pytest

import manent as mn
from manent.core.layers import Gathering
from manent.crypto import SystemRandom
from manent.crypto.samplers.laws import DiscreteGaussian, DiscreteLaplace, Poisson, RoundedGaussian
from manent.layers.clip import CHUNK
from manent.layers.noise import reach
from manent.privacy.stack import build
from tests.privacy.studies import spec, stack, vectors

RANDOM = SystemRandom()
LONG = CHUNK + 1000
BY_CLIENTS = {
    "local": [mn.Clip(1.0), mn.LocalNoise(1.0)],
    "local, laplace": [mn.Clip(1.0, order=1), mn.LocalNoise(1.0, "laplace")],
    "distributed": [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=1.0)],
    "skellam": [mn.Clip(1.0), mn.DistributedNoise("skellam", 1.0)],
}


@pytest.mark.parametrize("layer", [mn.Discretize(), mn.Discretize(grid=0.004), mn.Discretize(grid=0.004, rotation=True)])
@pytest.mark.parametrize("order", [2, 1])
def test_the_integer_norm_is_that_of_all_pieces(layer, order):
    """A vector that nothing clipped, with as much in every piece: each piece alone would be within the bound."""
    if order == 1 and layer.rotation:
        pytest.skip("a rotation keeps the Euclidean norm only")
    made = stack([mn.Clip(1.0, order=order), layer], LONG)
    row = np.zeros((1, LONG), np.float32)
    row[0, [5, CHUNK - 5, CHUNK + 5, LONG - 5]] = 0.9, -0.9, 0.9, -0.9
    out = [int(k) for k in made.stages[-1].client(row, {}, RANDOM)[0]]
    found, bound = (math.isqrt(sum(k * k for k in out)), made.form.l2) if order == 2 else (sum(map(abs, out)), made.form.l1)
    assert found <= bound
    assert order == 1 or found > bound / 2  # a first norm that cannot be kept so finely may end in zeros


def test_a_long_vector_within_the_bound_is_not_scaled_down():
    made = stack([mn.Clip(1.0), mn.Discretize()], LONG)
    row = np.zeros((1, LONG), np.float32)
    row[0, [5, CHUNK + 5, LONG - 5]] = 0.5
    np.testing.assert_array_equal(made.client(row, {}, RANDOM), (row * 2.0**24).astype(np.int64))


@pytest.mark.parametrize("layers", BY_CLIENTS.values(), ids=list(BY_CLIENTS))
def test_every_row_and_every_piece_has_noise_of_its_own(layers):
    """Steps of the grid are so fine that two draws are equal by chance with probability below 2^-20, nearly all by far less."""
    rows, size = 3, 70_000  # more than two pieces of noise in a row
    found = stack(layers, size, 4).client(np.zeros((rows, size), np.float32), {}, RANDOM)
    for one in range(rows):
        assert np.count_nonzero(found[one] == found[one - 1]) < 100
        for shift in (1 << 14, 1 << 15, 1 << 16):
            assert np.count_nonzero(found[one, shift:] == found[one, :-shift]) < 100
        assert np.count_nonzero(found[one]) > size - 100
    flat = found.reshape(-1)
    for shift in (1 << 15, 1 << 16, 1 << 17):
        assert np.count_nonzero(flat[shift:] == flat[:-shift]) < 100


def test_central_noise_of_a_long_total_does_not_repeat():
    made = stack([mn.Clip(1.0), mn.CentralNoise(1.0)], 200_000)
    found, _ = made.server(np.zeros(200_000, np.int64), made.init(), RANDOM)
    for shift in (1 << 14, 1 << 15, 1 << 16, 1 << 17):
        assert np.count_nonzero(found[shift:] == found[:-shift]) < 100


@pytest.mark.parametrize("scale", [0.5, 3.0, 1e3, 2.0**30])
def test_no_sampler_gives_more_than_its_reach(scale):
    """Rings and overflow checks rest on it. Of Skellam the scale is the deviation: two Poisson variables of half its square."""
    for law, name in ((RoundedGaussian(scale), "gaussian"), (DiscreteGaussian(scale), "discrete_gaussian")):
        assert max(map(abs, law.support)) <= reach(scale, name)
    assert max(map(abs, DiscreteLaplace(scale).support)) <= reach(scale, "laplace")
    if scale <= 2.0**24:
        low, high = Poisson(scale**2 / 2).support
        assert high - low <= reach(scale, "skellam")


@pytest.mark.parametrize("settings", [{"bands": 2}, {}])
def test_a_round_of_correlated_noise_is_neither_left_out_nor_repeated(settings):
    made = build(spec(5), [mn.Clip(1.0), mn.CorrelatedNoise(1.0, **settings)], Gathering(8.0, 0, 8, None, 6, 2))
    state = made.init()
    for round in (1, 2, 3):
        for wrong in range(7):
            if wrong != round:
                with pytest.raises(mn.Refused, match="counts the distance"):
                    made.check_round(state, wrong)
        made.check_round(state, round)
        _, state = made.server(np.zeros(5, np.int64), state, RANDOM)


def test_the_noise_of_correlated_rounds_covers_their_rounding():
    """sigma is noise_multiplier * (||C delta|| + (1 + 2 E) sqrt((rounds - 1) d)): with many coordinates the second term shows."""
    rounds, size, bound = 5, 10_000, 4
    layers = [mn.Clip(1.0), mn.Discretize(grid=0.25, rounding="towards_zero"), mn.CorrelatedNoise(1.0, bands=1)]
    made = build(spec(size), layers, Gathering(8.0, 0, 8, None, rounds, rounds))
    assert made.form.l2 == bound
    assert made.noise.sigma == pytest.approx(bound + math.sqrt((rounds - 1) * size), rel=1e-6)


def test_rows_of_one_call_are_those_of_calls_of_their_own():
    rows = vectors(3, LONG)
    made = stack([mn.Clip(1.0), mn.Discretize()], LONG)
    together = made.client(rows, {}, RANDOM)
    np.testing.assert_array_equal(together, np.concatenate([made.client(row[None], {}, RANDOM) for row in rows]))
