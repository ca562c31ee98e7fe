"""Noise that is correlated between rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz

import manent as mn
from manent.accounting import Composed, Ledger, MatrixFactorisation, epsilon
from manent.accounting.factorisation import sensitivity
from manent.core.layers import Gathering
from manent.core.randomness import repeatable
from manent.crypto import SystemRandom
from manent.engines.folder import RunFolder
from manent.layers import correlated as tree
from manent.layers.correlated import Bands, Buffers, CorrelatedStage
from manent.privacy import resolve
from manent.privacy.stack import build
from manent.storage import MemoryStore
from tests.privacy.studies import DATA, FEDAVG, budget, spec, study

RANDOM = SystemRandom()
COHORT = mn.Cohort(size=4, min_separation=4)


def private(rounds=6, layers=None, **changes):
    return study(layers or [mn.Clip(0.5), mn.CorrelatedNoise(2.0)], rounds, **{"cohort": COHORT, **changes})


def made(rounds, apart, bands, size, z=1.0, layers=()):
    """The stack and its CorrelatedStage."""
    gathering = Gathering(20.0, 0, 20, None, rounds, apart)
    found = build(spec(size), [mn.Clip(1.0), *layers, mn.CorrelatedNoise(z, bands)], gathering)
    return found, found.noise


def streamed(stage, rounds, size, totals=None):
    """int64[rounds, size], what the stage gives for these totals (zeros)."""
    state, given_out = stage.init(), []
    for t in range(rounds):
        stage.check_round(state, t + 1)
        total = np.zeros(size, np.int64) if totals is None else totals[t]
        noised, state = stage.server(total, state, RANDOM)
        given_out.append(noised)
    return np.array(given_out), state


@pytest.fixture
def scripted(monkeypatch):
    """Fresh noise that is known: `script.at` is the next draw's number."""

    class Script:
        at = 0

        def drawn(self, number, sigma, shape):
            return np.rint(np.random.default_rng(number).normal(scale=sigma, size=shape)).astype(np.int64)

        def __call__(self, sigma, shape, random):
            self.at += 1
            return self.drawn(self.at - 1, sigma, shape)

    script = Script()
    monkeypatch.setattr(tree, "rounded_gaussian", script)
    return script


def matrix_of(stage, rounds):
    """C, dense."""
    c = np.zeros(rounds)
    first = stage.correlation.coefficients(rounds)[:rounds]
    c[: len(first)] = first
    return np.tril(toeplitz(c, np.zeros(rounds)))


SHAPES = [(1, 1, 1), (12, 4, 4), (12, 4, 2), (12, 12, 12), (9, 5, 1), (1, 1, None), (12, 4, None), (30, 10, None)]


@pytest.mark.parametrize(("rounds", "apart", "bands"), SHAPES)
def test_the_stream_is_the_dense_matrix(scripted, rounds, apart, bands):
    _, stage = made(rounds, apart, bands, 7)
    found, _ = streamed(stage, rounds, 7)
    fresh = np.array([scripted.drawn(t, stage.sigma, (7,)) for t in range(rounds)])
    matrix = matrix_of(stage, rounds)
    # Each round is rounded once, by at most a half; what is on a grid of 2^-24 of the norm shows nothing of that.
    assert np.abs(matrix @ found - fresh).max() <= (0.5 if bands else 0.75)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, fresh), atol=rounds)


@pytest.mark.parametrize("bands", [8, None])
def test_noise_has_the_covariance_of_the_factorisation(bands):
    rounds, size = 8, 80_000
    _, stage = made(rounds, 8, bands, size)
    found = streamed(stage, rounds, size)[0] / stage.sigma
    back = np.linalg.inv(matrix_of(stage, rounds))
    # Each entry is a mean of 80,000 products of deviation at most 1.5: 0.05 is nine deviations, a false alarm in 1e17.
    np.testing.assert_allclose(found @ found.T / size, back @ back.T, atol=0.05)
    # The sum of all rounds carries far less than independent noise would leave.
    assert found.sum(0).std() < 0.6 * math.sqrt(rounds)


def test_totals_do_not_change_the_noise(scripted):
    _, stage = made(6, 3, None, 5)
    totals = np.random.default_rng(1).integers(-1000, 1000, (6, 5))
    alone, _ = streamed(stage, 6, 5)
    scripted.at = 0
    np.testing.assert_array_equal(streamed(stage, 6, 5, totals)[0] - totals, alone)


@pytest.mark.parametrize("bands", [3, None])
def test_one_client_moves_no_more_than_the_noise_is_sized_for(bands):
    """By every sign and pattern of a client of one coordinate: the shift of the fresh noise that explains the same releases."""
    rounds, apart, norm = 7, 3, 2
    _, stage = made(rounds, apart, bands, 1, layers=[mn.Discretize(grid=0.5, rounding="towards_zero")])
    assert stage.form.l2 == norm
    rng, worst = np.random.default_rng(0), 0.0

    def fresh(noise):
        """R_t of given w: what was drawn, had this been the noise."""
        past, drawn = stage.correlation.init(1), []
        for now in noise:
            drawn.append(int(now) + int(stage.correlation.earlier(past)[0]))
            past = stage.correlation.after(past, np.array([now]))
        return np.array(drawn)

    for signs in product((-norm, 0, norm), repeat=rounds):
        at = np.flatnonzero(signs)
        if (np.diff(at) < apart).any():
            continue
        for _ in range(20):
            noise = rng.integers(-100, 100, rounds)
            worst = max(worst, float(np.linalg.norm(fresh(noise + signs) - fresh(noise))))
    moved = sensitivity(stage.correlation.coefficients(rounds), rounds, 3, apart) * norm
    # On so coarse a grid rounding does enlarge it: without the second term the noise would be too small.
    assert moved < worst <= stage.sigma
    assert stage.sigma == pytest.approx(moved + (1 if bands else 2) * math.sqrt(6), rel=1e-6)


# Enforced distance


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.data(), st.integers(0, 10**6))
def test_nobody_takes_part_again_too_soon_or_too_often(clients, apart, data, seed):
    apart = min(apart, clients)
    size = data.draw(st.one_of(st.none(), st.integers(1, clients // apart)))
    cohort = mn.Cohort(size=size, min_separation=apart)
    cohort.check(clients)
    rounds, seen = 3 * apart + 2, {}
    for t in range(1, rounds + 1):
        turn = cohort.turn(clients, t, repeatable(seed, "groups"))
        drawn = cohort.draw(clients, repeatable(seed, "cohort", t, 0), turn)
        assert len(set(drawn)) == len(drawn) == (size or len(turn))
        assert list(drawn) == sorted(drawn)
        for client in drawn:
            seen.setdefault(client, []).append(t)
    for times in seen.values():
        assert len(times) <= -(-rounds // apart)
        assert all(b - a >= apart for a, b in pairwise(times))
    if size is None:
        assert sorted(seen) == list(range(clients))


def test_the_engine_keeps_the_distance():
    asked = []

    @dataclass(frozen=True)
    class Watched:
        inner: mn.FedAvg

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def answer(self, assignment, clients, *arguments):
            asked[-1].update(client.name for client in clients)
            return self.inner.answer(assignment, clients, *arguments)

        def assign(self, state, round, index):
            if index == 0:
                asked.append(set())
            return self.inner.assign(state, round, index)

    mn.simulate(private(9, algorithm=Watched(FEDAVG)), DATA, workers=0)
    rounds = [names for names in asked if names]
    assert [len(names) for names in rounds] == [4] * 9
    for t, names in enumerate(rounds):
        for other in rounds[t + 1 : t + 4]:
            assert not names & other


WRONG = {
    "no distance": (private(cohort=mn.Cohort(size=4)), "min_separation=..."),
    "everyone, always": (private(cohort=mn.Cohort()), "min_separation=..."),
    "a Poisson cohort": (private(cohort=mn.Cohort(sampling_probability=0.5)), "min_separation=..."),
    "noise beyond what buffers keep": (private(layers=[mn.Clip(0.5), mn.CorrelatedNoise(2.0**20)]), "coarser grid"),
    "more bands than rounds apart": (private(20, [mn.Clip(0.5), mn.CorrelatedNoise(1.0, bands=5)]), "bands <= 4"),
    "a minimum": (private(cohort=replace(COHORT, minimum=2)), "Leave minimum out"),
    "an adaptive clip": (private(layers=[mn.AdaptiveClip(), mn.CorrelatedNoise(1.0)]), r"Use Clip\(norm\)"),
    "a modulus": (private(layers=[mn.Clip(0.5), mn.Discretize(bits=30), mn.CorrelatedNoise(1.0)]), "Leave Discretize"),
    "adding or removing": (private(layers=[mn.Clip(0.5), mn.CorrelatedNoise()], budget=budget()), "zero_out"),
    "no bound": (private(layers=[mn.CorrelatedNoise(1.0)]), r"Put Clip\(norm\)"),
    "noise beyond 64 bits": (private(layers=[mn.Clip(0.5), mn.CorrelatedNoise(2.0**20, bands=2)]), "coarser grid"),
}


@pytest.mark.parametrize(("declared", "why"), WRONG.values(), ids=list(WRONG))
def test_what_the_noise_is_not_sized_for_is_refused_with_the_cure(declared, why):
    with pytest.raises(mn.Refused, match=why):
        mn.check(declared, DATA)


@pytest.mark.parametrize(
    ("build_it", "why"),
    [
        (lambda: mn.Cohort(sampling_probability=0.5, min_separation=2), "alone or with size"),
        (lambda: mn.Cohort(min_separation=0), "min_separation >= 1"),
        (lambda: mn.Cohort(size=6, min_separation=4).check(20), "min_separation <= 3"),
        (lambda: mn.Cohort(min_separation=21).check(20), "min_separation <= 20"),
        (lambda: mn.Cohort(size=2, min_separation=2).draw(20, repeatable(0, "x")), "turn="),
        (lambda: mn.CorrelatedNoise(-1.0), "noise_multiplier"),
        (lambda: mn.CorrelatedNoise(bands=0), "bands >= 1"),
        (lambda: mn.CorrelatedNoise(buffers=0), "buffers >= 1"),
        (lambda: mn.CorrelatedNoise(buffers=6), "buffers <= 5"),
    ],
)
def test_declarations_without_sense_are_refused(build_it, why):
    with pytest.raises(mn.InvalidInput, match=why):
        build_it()


def test_a_sum_that_is_rare_or_formed_twice_a_round_is_refused():
    @dataclass(frozen=True)
    class Odd:
        inner: mn.FedAvg
        every: int = 1

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def sums(self, public):
            return (replace(self.inner.sums(public)[0], every=self.every),)

        def assign(self, state, round, index):
            return self.inner.assign(state, round, 0) if index < 2 else None

    with pytest.raises(mn.Refused, match="every 2 rounds"):
        mn.check(private(algorithm=Odd(FEDAVG, 2)), DATA)
    with pytest.raises(mn.Refused, match="once a round"):
        mn.simulate(private(algorithm=Odd(FEDAVG)), DATA, workers=0)


# Accounting


def test_all_rounds_are_one_gaussian_release_and_nothing_is_amplified():
    plan = resolve(private(10), DATA)
    event = plan.privacy.event
    assert event == MatrixFactorisation(2.0, 10, 3, 4, event.sampler_error)
    assert 0 < event.sampler_error < 1e-40
    assert plan.privacy.relation == "zero_out"
    told = {observer.name: observer for observer in plan.statement.observers}
    assert told["server"].epsilon is None
    assert told["public"].epsilon == epsilon(event, told["public"].delta, "zero_out").epsilon
    text = str(plan.statement)
    for words in (
        "analytic Gaussian",
        "at most 3 times, at least 4 rounds apart",
        "4 groups, which take turns",
        "takes that noise off",
        "a run that ends early has spent as much",
    ):
        assert words in text
    assert "sampled" not in text


def test_a_run_that_ends_early_gets_nothing_back():
    ledger = Ledger(MemoryStore())
    ledger.open("softmax", budget(8.0, neighboring_relation="zero_out"))

    @dataclass(frozen=True)
    class Short:
        """An algorithm that wants no more after two rounds."""

        inner: mn.FedAvg

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def assign(self, state, round, index):
            return self.inner.assign(state, round, index) if round <= 2 else None

    declared = private(9, algorithm=Short(FEDAVG))
    mn.simulate(declared, DATA, workers=0, ledger=ledger)
    whole = epsilon(resolve(declared, DATA).privacy.event, 1e-3, "zero_out").epsilon
    assert ledger.account("softmax").spent == pytest.approx(whole)


@pytest.mark.parametrize("bands", [2, None])
def test_the_noise_is_found_from_the_budget(bands):
    layers = [mn.Clip(0.5), mn.CorrelatedNoise(bands=bands)]
    plan = resolve(private(10, layers, budget=budget(4.0, neighboring_relation="zero_out")), DATA)
    found = {observer.name: observer.epsilon for observer in plan.statement.observers}["public"]
    assert 3.99 < found <= 4.0
    twice = resolve(private(10, layers, budget=budget(4.0, neighboring_relation="replace_one")), DATA)
    assert twice.privacy.noise_multiplier == pytest.approx(2 * plan.privacy.noise_multiplier, rel=1e-3)
    assert twice.privacy.noise_stddev["train"] == pytest.approx(2 * plan.privacy.noise_stddev["train"], rel=1e-3)


def test_two_sums_are_two_streams():
    scaffold = resolve(private(algorithm=mn.SCAFFOLD(FEDAVG.model, FEDAVG.local)), DATA)
    assert not isinstance(scaffold.privacy.event, Composed)
    assert scaffold.privacy.releases == 6


# State


class Stop(Exception):
    """Raised by a watcher to stop a run from outside."""


@dataclass(frozen=True)
class StopAfter:
    rounds: int

    def advance(self, round, clients, metrics):
        if round == self.rounds:
            raise Stop


@pytest.mark.parametrize("bands", [4, None])
def test_an_interrupted_run_goes_on_with_its_noise(bands, tmp_path, scripted):
    declared = private(9, [mn.Clip(0.5), mn.CorrelatedNoise(2.0, bands)])
    whole = mn.simulate(declared, DATA, workers=0, folder=tmp_path / "whole")
    scripted.at = 0
    with pytest.raises(Stop):
        mn.simulate(declared, DATA, workers=0, folder=tmp_path / "run", watcher=StopAfter(6))
    saved = RunFolder.open(tmp_path / "run").checkpoint().arrays
    assert saved["layers.train/layer.2.round"][0] == 6
    assert saved["layers.train/layer.2.past"].shape[0] == 3
    assert saved["layers.train/layer.2.past"].any()
    scripted.at = 6
    again = mn.simulate(declared, DATA, workers=0, folder=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(again.state["model"], whole.state["model"])


def test_noise_is_not_kept_when_it_is_no_longer_needed(tmp_path):
    mn.simulate(private(), DATA, workers=0, folder=tmp_path / "run")
    saved = RunFolder.open(tmp_path / "run").checkpoint().arrays
    assert saved["layers.train/layer.2.round"][0] == 6
    assert not saved["layers.train/layer.2.past"].any()


def test_the_model_ends_with_less_noise_than_independent_rounds_leave():
    frozen = mn.FedAvg(FEDAVG.model, mn.LocalSGD(lr=1e-30, epochs=1, batch_size=3), weighting="equal")
    cohort, rounds = mn.Cohort(min_separation=20), 40
    far = []
    for bands in (1, 20, None):
        declared = private(rounds, [mn.Clip(0.5), mn.CorrelatedNoise(1.0, bands)], algorithm=frozen, cohort=cohort)
        runs = [mn.simulate(declared, DATA, workers=0) for _ in range(6)]
        start = FEDAVG.model.init(repeatable(0, "init"))
        far.append(np.mean([np.linalg.norm(run.state["model"] - start) for run in runs]))
    # 2.2 times less by the norms; 6 runs of 15 numbers tell that from 1.5 times less.
    assert max(far[1:]) < far[0] / 1.5


def test_state_is_declared():
    for bands, memory, shape, dtype in ((4, Bands, (3, 5), np.int64), (None, Buffers, (3, 5), np.float64)):
        _, stage = made(12, 4, bands, 5)
        assert isinstance(stage, CorrelatedStage)
        assert isinstance(stage.correlation, memory)
        state = stage.init()
        assert (state["past"].shape, state["past"].dtype) == (shape, dtype)
        assert set(state) == {"past", "coefficients", "round"}
        with pytest.raises(mn.Refused, match="other coefficients"):
            stage.check_round({**state, "coefficients": state["coefficients"] * 0.9}, 1)
