"""Noise on whole numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

import manent as mn
from manent.accounting.events import DiscreteLaplace, DistributedDiscreteGaussian, RoundedGaussian, Skellam
from manent.crypto import InsecureTestRNG, SystemRandom
from tests.privacy.studies import stack, vectors
from tests.statistics import deviation_ok, within

RANDOM = SystemRandom()
SIZE, CLIENTS = 40_000, 16
KINDS = {
    "central": [mn.Clip(2.0), mn.CentralNoise(1.5)],
    "central, laplace": [mn.Clip(2.0, order=1), mn.CentralNoise(1.5, "laplace")],
    "local": [mn.Clip(2.0), mn.LocalNoise(1.5)],
    "local, laplace": [mn.Clip(2.0, order=1), mn.LocalNoise(1.5, "laplace")],
    "distributed": [mn.Clip(2.0), mn.DistributedNoise(noise_multiplier=1.5)],
    "skellam": [mn.Clip(2.0), mn.DistributedNoise("skellam", 1.5)],
    "distributed, coarse": [mn.Clip(2.0), mn.Discretize(grid=0.05), mn.DistributedNoise(noise_multiplier=1.5)],
    "distributed, rotated": [mn.Clip(2.0), mn.Discretize(bits=20, rotation=True), mn.DistributedNoise(noise_multiplier=1.5)],
}


def noise(layers, random=RANDOM, size=SIZE):
    """The noise in the total of clients that send zeros, in the unit of the vectors."""
    made = stack(layers, size, CLIENTS)
    rows = np.zeros((1, size), np.float32)
    total = sum(made.client(rows, made.sends(made.init()), random)[0] for _ in range(CLIENTS))
    return made, made.server(total, made.init(), random)[0]


@pytest.mark.parametrize("layers", KINDS.values(), ids=list(KINDS))
def test_the_total_carries_the_noise_that_is_stated(layers):
    made, found = noise(layers)
    per_total = made.noise.cost.stddev * (math.sqrt(CLIENTS) if made.noise.cost.where == "each client" else 1)
    expected = per_total * (math.sqrt(2) if "laplace" in str(layers) else 1)
    # Sixteen checks of 1e-11 each.
    assert deviation_ok(found, expected, kurtosis=6 if "laplace" in str(layers) else 3, alarm=1e-11)
    assert within(found.mean(), 0, expected / math.sqrt(SIZE), alarm=1e-11)
    if made.stages[1].form.layout.size == SIZE and not made.stages[1].stochastic:
        assert made.noise.cost.stddev == pytest.approx(1.5 * 2.0, rel=1e-6)


@pytest.mark.parametrize("layers", KINDS.values(), ids=list(KINDS))
def test_every_total_lies_on_the_grid(layers):
    """What a distinguisher looks at: for any input, outputs are the same set of numbers (Mironov 2012; Haney et al. 2022)."""
    if "rotation=True" in str(layers):
        pytest.skip("rotated back in floating point, after the noise")
    made = stack(layers, 200, CLIENTS)
    sent = made.sends(made.init())
    for rows in (np.zeros((CLIENTS, 200), np.float32), vectors(CLIENTS, 200)):
        total = made.client(rows, sent, RANDOM).sum(0)
        noised, _ = made.noise.server(total, {}, RANDOM)
        assert noised.dtype == np.int64
        back, _ = made.server(total, made.init(), RANDOM)
        np.testing.assert_array_equal(back, np.rint(back / made.form.grid) * made.form.grid)


def test_noise_is_fresh_in_every_release_and_follows_a_test_source():
    made = stack(KINDS["central"], 50, CLIENTS)
    zeros = np.zeros(50, np.int64)
    first, second = (made.server(zeros, made.init(), RANDOM)[0] for _ in range(2))
    assert not np.array_equal(first, second)
    same = [made.server(zeros, made.init(), InsecureTestRNG(3))[0] for _ in range(2)]
    np.testing.assert_array_equal(*same)


def test_the_event_tells_the_noise():
    assert isinstance(stack(KINDS["central"]).noise.cost.event, RoundedGaussian)
    assert stack(KINDS["central"]).noise.cost.event.noise_multiplier == 1.5
    laplace = stack(KINDS["local, laplace"]).noise.cost.event
    assert laplace == DiscreteLaplace(1.5 * 2**24, 2**24)
    shared = stack(KINDS["distributed"], 10, CLIENTS).noise
    assert isinstance(shared.cost.event, DistributedDiscreteGaussian)
    assert shared.cost.event.local_stddev * math.sqrt(shared.cost.event.parties) == pytest.approx(1.5 * 2**24)
    assert shared.cost.seen is None  # one share protects a vector from nobody
    assert shared.cost.beside.parties == shared.cost.event.parties - 1
    assert stack(KINDS["skellam"], 10, CLIENTS).noise.cost.event == Skellam((1.5 * 2**24) ** 2, 2**24, 2**24 * math.sqrt(10))


def test_shares_are_sized_for_those_who_are_certain_to_answer():
    layer = mn.DistributedNoise(noise_multiplier=1.0, dropout=0.2, colluders=0.1)
    assert (layer.honest(100), layer.minimum(100)) == (70, 80)
    assert (layer.honest(1), layer.minimum(1)) == (1, 1)
    made = stack([mn.Clip(1.0), layer], SIZE, 10)
    assert made.noise.parties == 7
    rows = np.zeros((1, SIZE), np.float32)
    minimum = sum(made.client(rows, {}, RANDOM)[0] for _ in range(made.noise.parties))
    assert deviation_ok(minimum * made.form.grid, 1.0)


def test_a_share_below_two_steps_is_refused():
    layers = [mn.Clip(1.0), mn.Discretize(grid=0.2), mn.DistributedNoise(noise_multiplier=1.0)]
    with pytest.raises(mn.Refused, match="at least 2 are needed"):
        stack(layers, 10, 100)


def test_what_is_no_noise_is_refused():
    for bad in (0, -1, math.inf, math.nan, True):
        for layer in (mn.CentralNoise, mn.LocalNoise):
            with pytest.raises(mn.InvalidInput, match="noise_multiplier"):
                layer(bad)
        with pytest.raises(mn.InvalidInput, match="noise_multiplier"):
            mn.DistributedNoise(noise_multiplier=bad)
    with pytest.raises(mn.InvalidInput, match="mechanism"):
        mn.CentralNoise(1.0, "cauchy")
    with pytest.raises(mn.InvalidInput, match="mechanism"):
        mn.DistributedNoise("gaussian")
    with pytest.raises(mn.InvalidInput, match="less than 1"):
        mn.DistributedNoise(dropout=0.5, colluders=0.5)
    with pytest.raises(mn.Refused, match="order=1"):
        stack([mn.Clip(1.0), mn.CentralNoise(1.0, "laplace")])
    with pytest.raises(mn.InvalidInput, match="or Study"):
        stack([mn.Clip(1.0), mn.CentralNoise()])
