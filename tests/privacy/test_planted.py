"""Planted bugs: each fault that deployed systems had is put in by patching, and an ordinary test of the suite must then fail."""

from __future__ import annotations

import math

import numpy as np
import pytest

import manent as mn
from manent.layers import adaptive, clip, noise
from manent.privacy import stack
from tests.engines import test_private
from tests.layers import test_clip, test_discretize, test_noise
from tests.privacy import test_refusals

REFUSED = test_refusals.REFUSED
ADAPTIVE = test_clip.test_the_adaptive_norm_converges_to_the_quantile_from_both_sides


def halved(monkeypatch):
    draw = noise.draw
    monkeypatch.setattr(noise, "draw", lambda law, scale, shape, random: draw(law, scale / 2, shape, random))


def missing(monkeypatch):
    monkeypatch.setattr(noise, "draw", lambda law, scale, shape, random: np.zeros(shape, np.int64))


def floating(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(noise, "draw", lambda law, scale, shape, random: rng.normal(0, scale, shape))


def clip_by_layer(monkeypatch):
    def by_part(row, bound, order=2):
        half = len(row) // 2
        return np.concatenate([whole(row[:half], bound, order), whole(row[half:], bound, order)])

    whole = clip.clip
    monkeypatch.setattr(clip, "clip", by_part)


def weights_uncapped(monkeypatch):
    monkeypatch.setattr(stack, "_check_scalable", lambda spec: None)


def backwards(monkeypatch):
    right = adaptive.AdaptiveStage._next
    monkeypatch.setattr(adaptive.AdaptiveStage, "_next", lambda self, bound, within: bound**2 / right(self, bound, within))


def shares_lost(monkeypatch):
    """30% of those who answer leave their share out."""
    right, calls = noise.SharesStage.client, [0]

    def lossy(self, vectors, sent, random):
        calls[0] += 1
        return vectors if calls[0] % 10 < 3 else right(self, vectors, sent, random)

    monkeypatch.setattr(noise.SharesStage, "client", lossy)


def dropouts_uncounted(monkeypatch):
    monkeypatch.setattr(noise.DistributedNoise, "minimum", lambda self, asked: 1)


def not_poisson(monkeypatch):
    def fixed(self, clients, rng):
        size = round(self.sampling_probability * clients)
        return tuple(sorted(int(i) for i in rng.choice(clients, size, replace=False)))

    monkeypatch.setattr(mn.Cohort, "draw", fixed)


def unchecked_norm(monkeypatch):
    from manent.layers.discretize import DiscretizeStage

    def loose(self, row, scale, whole, random):
        np.copyto(whole, np.rint(np.clip(row * scale, -(2.0**30), 2.0**30)), casting="unsafe")
        return 0.5

    monkeypatch.setattr(DiscretizeStage, "_round", loose)


def stated(name):
    return lambda: test_noise.test_the_total_carries_the_noise_that_is_stated(test_noise.KINDS[name])


PLANTED = {
    "noise halved, central": (halved, stated("central")),
    "noise halved, local": (halved, stated("local")),
    "noise halved, distributed": (halved, stated("distributed")),
    "noise missing": (missing, stated("central")),
    "noise missing, laplace": (missing, stated("central, laplace")),
    "float noise": (floating, lambda: test_noise.test_every_total_lies_on_the_grid(test_noise.KINDS["central"])),
    "clip by layer": (clip_by_layer, test_clip.test_one_norm_over_the_whole_vector_not_one_a_block),
    "weights uncapped": (
        weights_uncapped,
        lambda: test_refusals.test_a_study_without_an_honest_statement_is_refused_with_the_cure(*REFUSED["weights"]),
    ),
    "adaptive clip backwards": (backwards, ADAPTIVE),
    "30% of the shares lost": (shares_lost, stated("distributed")),
    "drop-outs not counted": (dropouts_uncounted, test_private.test_with_too_few_shares_of_noise_nothing_is_released),
    "Poisson claimed, a fixed size drawn": (not_poisson, test_private.test_a_claim_of_poisson_sampling_is_true),
    "integer norm unchecked": (
        unchecked_norm,
        lambda: test_discretize.test_what_nothing_clipped_is_brought_within_the_bound_all_the_same(mn.Discretize()),
    ),
}


@pytest.mark.parametrize(("plant", "test"), PLANTED.values(), ids=list(PLANTED))
def test_a_planted_bug_is_caught(plant, test, monkeypatch):
    test()
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test()


def test_float_noise_would_be_told_from_its_bytes(monkeypatch):
    """The distinguisher itself: one output of float noise says which of two neighbouring inputs it came from."""

    def on_the_grid(values):
        return np.mean(values == np.rint(values * 2.0**53) / 2.0**53)

    rng = np.random.default_rng(0)
    near = [x + rng.normal(size=200_000) for x in (0.0, 1.0)]
    shares = [on_the_grid(values[np.abs(values) < 0.25]) for values in near]
    assert shares[0] < 0.5 < shares[1] == 1.0
    made = test_noise.stack([mn.Clip(2.0), mn.CentralNoise(0.5)], 20_000)
    for value in (0, round(1.0 / made.form.grid)):
        found, _ = made.server(np.full(20_000, value, np.int64), {}, test_noise.RANDOM)
        assert np.array_equal(found, np.rint(found / made.form.grid) * made.form.grid)
    assert math.isclose(made.noise.cost.stddev, 1.0)
