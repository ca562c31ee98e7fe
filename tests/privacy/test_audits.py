"""What is stated, held against lower bounds from the real layers: the short form of `benchmarks/epsilon_audits.py`.

All bounds hold jointly with probability 1 - 1e-9, so a failure is a wrong statement. With faults planted the bounds must lie
above what is stated: the audits see what they are there for.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from manent.crypto.samplers import gradients
from manent.layers import clip, correlated, noise
from manent.layers.discretize import DiscretizeStage

sys.path.append(str(Path(__file__).parent.parent.parent / "benchmarks"))
import epsilon_audits
from audits import bounds
from audits.bounds import Worlds, lower_bound

ALPHA = 1e-9 / 500  # for each audit; there are fewer than 500 of them here
SAMPLES = 16_000
LONGER = ("simulated", "without Dropout")
JOBS = [job for job in epsilon_audits.jobs() if not any(text in job[0] for text in LONGER)]


def audits(mechanism, relation, samples=SAMPLES):
    """The rows of one mechanism, by observer."""
    taken, unclaimed = epsilon_audits.one((mechanism, relation, samples))
    assert taken or unclaimed
    return {each.observer: each.found(ALPHA) for each in taken}


@pytest.mark.parametrize(("mechanism", "relation"), JOBS, ids=[", ".join(job) for job in JOBS])
def test_no_lower_bound_lies_above_what_is_stated(mechanism, relation):
    for row in audits(mechanism, relation).values():
        assert row["lower"] <= row["stated"], bounds.summary(row)


@pytest.mark.parametrize(("epsilon", "least"), [(1, 0.35), (2, 0.65), (4, 0.8), (8, 0.85)])
def test_many_canaries_come_close_to_what_is_stated(epsilon, least):
    found = audits(f"central Gaussian, epsilon {epsilon}", "add_or_remove", 80_000)
    # Over runs tightness is .65, .80, .89 and .93 with deviations of .04, .02, .012 and .01: each limit is seven away or more.
    assert {"clients", "public"} <= set(found)
    assert all(row["stated"] == pytest.approx(epsilon, rel=1e-3) and row["tightness"] >= least for row in found.values())


def halved(monkeypatch):
    draw = noise.draw
    monkeypatch.setattr(noise, "draw", lambda law, scale, shape, random: draw(law, scale / 2, shape, random))


def block_missing(monkeypatch):
    def without(law, scale, shape, random):
        drawn = draw(law, scale, shape, random)
        drawn[len(drawn) // 2 :] = 0
        return drawn

    draw = noise.draw
    monkeypatch.setattr(noise, "draw", without)


def clip_by_block(monkeypatch):
    def by_block(row, bound, order=2):
        half = len(row) // 2
        return np.concatenate([whole(row[:half], bound, order), whole(row[half:], bound, order)])

    def loose(self, row, scale, whole_numbers, random):
        np.copyto(whole_numbers, np.rint(row * scale), casting="unsafe")
        return 0.5

    whole = clip.clip
    monkeypatch.setattr(clip, "clip", by_block)
    monkeypatch.setattr(DiscretizeStage, "_round", loose)  # which would bring the vector within the bound all the same


def one_noise_for_all_rows(monkeypatch):
    def added(vectors, law, scale, random):
        vectors += noise.draw(law, scale, vectors.shape[1:], random)
        return vectors

    monkeypatch.setattr(noise, "add_noise", added)


def own_share_counted_twice(monkeypatch):
    """Shares as small as if there were twice as many clients."""
    right = noise.add_noise
    smaller = lambda vectors, law, scale, random: right(vectors, law, scale / np.sqrt(2), random)  # noqa: E731
    monkeypatch.setattr(noise, "add_noise", smaller)


def correlated_halved(monkeypatch):
    right = correlated.rounded_gaussian
    monkeypatch.setattr(correlated, "rounded_gaussian", lambda sigma, shape, random: right(sigma / 2, shape, random))


def gradients_halved(monkeypatch):
    right = gradients.rounded_gaussian
    monkeypatch.setattr(gradients, "rounded_gaussian", lambda sigma, shape, random: right(sigma / 2, shape, random))


DISTRIBUTED = "distributed discrete Gaussian"
PLANTED = {
    "central noise halved": (halved, "central Gaussian, wide", "zero_out", "public", 40_000),
    "Laplace noise halved": (halved, "central Laplace", "zero_out", "public", 40_000),
    "local noise halved": (halved, "local Gaussian", "zero_out", "server", 160_000),
    "shares halved": (halved, DISTRIBUTED, "replace_one", "clients", 30_000),
    "shares of Skellam halved": (halved, "distributed Skellam", "replace_one", "clients", 30_000),
    "a block without noise": (block_missing, "central Gaussian, over two blocks", "replace_one", "clients", 80_000),
    "half of the coordinates without noise": (block_missing, "central Gaussian, wide", "replace_one", "clients", 40_000),
    "clipped by block": (clip_by_block, "central Gaussian, over two blocks", "replace_one", "public", 60_000),
    "one noise for all rows, local": (one_noise_for_all_rows, "local Gaussian", "zero_out", "server", 20_000),
    "one noise for all rows, shares": (one_noise_for_all_rows, DISTRIBUTED, "zero_out", "clients", 20_000),
    "a share counted twice": (own_share_counted_twice, DISTRIBUTED, "replace_one", "clients", 60_000),
    "adaptive clip, noise halved": (halved, "adaptive clip, central Gaussian", "zero_out", "public", 120_000),
    "correlated noise halved": (correlated_halved, "correlated noise, bands", "zero_out", "clients", 40_000),
    "noise of DP-SGD halved": (gradients_halved, "DP-SGD, every example in every batch", "replace_one", "server", 100_000),
}


@pytest.mark.parametrize(("plant", "mechanism", "relation", "observer", "samples"), PLANTED.values(), ids=list(PLANTED))
def test_a_planted_fault_is_found(plant, mechanism, relation, observer, samples, monkeypatch):
    """With so many samples the bound lies seven of its deviations or more above what is stated: missed once in 1e11 runs."""
    plant(monkeypatch)
    row = audits(mechanism, relation, samples)[observer]
    assert row["lower"] > row["stated"], bounds.summary(row)


def normal(mu, count, seed=0):
    rng = np.random.default_rng(seed)
    return Worlds(rng.normal(mu, 1, (count, 1)), rng.normal(0, 1, (count, 1)), "gaussian")


def test_epsilon_of_a_gaussian_is_that_of_the_literature():
    """z = 3.7306 gives 1, and z = 1.1935 at 1e-6 gives 4: one analytic Gaussian release (Balle, Wang 2018)."""
    assert bounds.epsilon_of(1 / 3.7306, 1e-5) == pytest.approx(1, abs=1e-4)
    assert bounds.epsilon_of(1 / 1.1935, 1e-6) == pytest.approx(4, abs=1e-3)
    assert bounds.epsilon_of(1e-9, 1e-5) == 0


def test_where_nothing_leaks_nothing_is_found():
    for kind in ("gaussian", "any"):
        for count in (100, 1_000, 20_000):
            same = normal(0.0, count)
            assert lower_bound(Worlds(same.one, same.other, kind), 1e-5, ALPHA) == 0


@pytest.mark.parametrize("mu", [0.25, 1.0, 2.0])
def test_bounds_are_below_the_truth_and_not_far(mu):
    """By both bounds; each fails to hold with probability 1e-6 at most, and seeds are fixed."""
    for seed in range(20):
        worlds, truth = normal(mu, 40_000, seed), bounds.epsilon_of(mu, 1e-5)
        close = lower_bound(worlds, 1e-5, 1e-6)
        assert 0.4 * truth < close <= truth
        assert (0 if mu < 1 else 0.3 * truth) <= lower_bound(Worlds(worlds.one, worlds.other), 1e-5, 1e-6) <= truth


def test_counts_are_bounded_as_clopper_and_pearson_have_it():
    for hits, of in ((0, 10), (3, 10), (10, 10)):
        low, high = bounds.below(hits, of, 0.01), bounds.above(hits, of, 0.01)
        assert low == 0 == hits or stats.binom.sf(hits - 1, of, low) == pytest.approx(0.01)
        assert high == 1 == hits / of or stats.binom.cdf(hits, of, high) == pytest.approx(0.01)
        assert low <= hits / of <= high


def test_what_an_observer_is_not_known_to_see_is_not_audited():
    from audits.pipeline import known_clients

    assert known_clients("public", 4, 0, True) == []
    assert known_clients("clients", 4, 0, True) == [-1]
    assert known_clients("colluders", 4, 2, True) == [-1, -2]
    assert known_clients("server", 3, 0, False) == [-1, -2, -3]
    assert known_clients("server", 3, 0, True) == []
    assert known_clients("an oracle", 3, 0, True) is None


def test_a_case_that_is_refused_is_unclaimed_with_the_reason():
    taken, unclaimed = epsilon_audits.one(("central Gaussian, cohort of 2 in 3", "add_or_remove", 400))
    assert not taken
    assert "fixed size" in unclaimed[0]["reason"]
