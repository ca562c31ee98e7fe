"""Layers that keep something on the clients: their place in a stack, and what a clip behind them proves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent.crypto import SystemRandom
from tests.privacy.feedback import Feedback
from tests.privacy.studies import DATA, stack, study, vectors

RANDOM = SystemRandom()


def test_a_stack_names_what_its_stages_keep():
    made = stack([Feedback(2), mn.Clip(1.0), mn.CentralNoise(0.5)], 11)
    assert [block.name for block in made.memory("train.").blocks] == ["train.layer.0.part 0", "train.layer.0.part 1"]
    two = stack([Feedback(2), Feedback(1)], 11).memory()
    assert two.size == 22
    assert [entry.name for block in two.blocks for entry in block.entries][2:] == ["layer.1.entry 0", "layer.1.entry 1"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 11), st.integers(1, 5))
def test_sent_and_kept_add_up_exactly(seed, top, rounds):
    made = stack([Feedback(top)], 11)
    true = np.random.default_rng(seed).integers(-(2**16), 2**16, (rounds, 3, 11)).astype(np.float32) / 64
    kept, sent = np.zeros((3, 11), np.float32), np.zeros((3, 11))
    for rows in true:
        before = rows.copy(), kept.copy()
        out, after = made.remember(rows, kept, {}, RANDOM)
        np.testing.assert_array_equal(rows, before[0])
        np.testing.assert_array_equal(kept, before[1])
        assert ((out != 0).sum(1) <= top).all()
        assert after.dtype == np.float32
        sent, kept = sent + out, after
    np.testing.assert_array_equal(sent + kept, true.sum(0, dtype=np.float64))


CLIPS = {
    "clip": [mn.Clip(0.5)],
    "order 1": [mn.Clip(0.5, order=1)],
    "adaptive": [mn.AdaptiveClip(initial=0.5)],
    "rotated, 20 bits": [mn.Clip(0.5), mn.Discretize(bits=20, rotation=True)],
    "default grid": [mn.Clip(0.5), mn.Discretize()],
}


@pytest.mark.parametrize("layers", CLIPS.values(), ids=list(CLIPS))
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(-4, 30))
def test_a_clip_behind_bounds_what_is_sent_whatever_is_kept(layers, seed, size):
    made = stack([Feedback(3), *layers], 11)
    rng, sent = np.random.default_rng(seed), made.sends(made.init())
    kept = (10.0**size * rng.normal(size=(4, 11))).astype(np.float32)
    for _ in range(3):
        rows = (10.0 ** rng.uniform(-3, 6) * rng.normal(size=(4, 11))).astype(np.float32)
        out, kept = made.remember(rows, kept, sent, RANDOM)
        assert kept.any()
        form = made.form
        whole = form.grid is not None
        for row in out:
            squares = sum(int(x) ** 2 for x in row) if whole else float(np.dot(row, row))
            assert squares <= form.l2**2 * (1 if whole else 1 + 1e-12)
            if form.l1 is not None:
                assert np.abs(row).sum() <= form.l1 * (1 if whole else 1 + 1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layers", CLIPS.values(), ids=list(CLIPS))
def test_a_broken_vector_sends_zeros_and_leaves_what_was_kept(layers, bad):
    made = stack([Feedback(3), *layers], 11)
    rows, kept = vectors(2, 11), vectors(2, 11, seed=1)
    rows[0, 4] = bad
    with np.errstate(invalid="ignore"):
        out, after = made.remember(rows, kept, made.sends(made.init()), RANDOM)
    assert not out[0].any()
    assert out[1].any()
    np.testing.assert_array_equal(after[0], kept[0])
    assert not np.array_equal(after[1], kept[1])


def test_what_float32_cannot_hold_is_not_kept():
    kept = np.full((1, 3), 3e38, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        _, after = stack([Feedback(1)], 3).remember(kept.copy(), kept, {}, RANDOM)
    np.testing.assert_array_equal(after, kept)


REFUSED = {
    "behind noise": ([mn.Clip(1.0), mn.CentralNoise(1.0), Feedback(3)], "stands behind CentralNoise"),
    "behind the clip": ([mn.Clip(1.0), Feedback(3), mn.CentralNoise(1.0)], "Nothing bounds a client's vector"),
    "no clip": ([Feedback(3), mn.CentralNoise(1.0)], "Nothing bounds a client's vector"),
    "on whole numbers": ([mn.Clip(1.0), mn.Discretize(), Feedback(3), mn.CentralNoise(1.0)], "acts on real numbers"),
}


@pytest.mark.parametrize(("layers", "message"), REFUSED.values(), ids=list(REFUSED))
def test_memory_gives_no_other_place(layers, message):
    with pytest.raises(mn.Refused, match=message):
        mn.check(study(layers), DATA)


def test_memory_does_not_change_what_a_study_costs():
    layers = [mn.Clip(0.5), mn.CentralNoise(1.0)]
    bare, fed = mn.check(study(layers), DATA), mn.check(study([Feedback(3), *layers]), DATA)
    assert [o.epsilon for o in fed.observers] == [o.epsilon for o in bare.observers]


def test_a_stage_with_memory_is_not_called_without():
    with pytest.raises(mn.ManentError, match="remember"):
        stack([Feedback(3)], 5).client(vectors(1, 5), {}, RANDOM)


def test_a_client_that_has_kept_nothing_sends_the_compressed_vector():
    rows = vectors(3, 9)
    out, _ = stack([Feedback(2)], 9).remember(rows, np.zeros((3, 9), np.float32), {}, RANDOM)
    for row, sent in zip(rows, out, strict=True):
        kept = np.argsort(-np.abs(row))[:2]
        np.testing.assert_array_equal(sent[kept], row[kept])
        assert (sent != 0).sum() == 2


def test_a_sample_of_fixed_size_amplifies_nothing_where_clients_remember() -> None:
    """What the others send later depends on who was drawn beside them, so an earlier sample is no secret."""
    rng = np.random.default_rng(0)
    parts = [mn.Examples(rng.normal(size=(2, 3)).astype(np.float32), np.array([0, 1])) for _ in range(200)]
    data = mn.Federation(tuple(mn.Client(f"c{i}", part) for i, part in enumerate(parts)), mn.Schema(shape=(3,), classes=2))
    local, layers = mn.LocalSGD(lr=0.1, steps=1, batch_size=2), [mn.Clip(1.0), mn.CentralNoise(2.0)]

    def against_the_public(algorithm, cohort):
        statement = mn.check(mn.Study(algorithm, rounds=20, cohort=cohort, layers=layers), data)
        return next(o.epsilon for o in statement.observers if o.name == "public")

    model = mn.LogisticModel(features=3)
    forgets, remembers = mn.FedAvg(model, local, weighting="equal"), mn.FedDyn(model, local, weighting="equal")
    drawn, flips, capped = (
        mn.Cohort(size=10),
        mn.Cohort(sampling_probability=0.05),
        mn.Cohort(sampling_probability=0.05, maximum=30),
    )
    assert against_the_public(remembers, drawn) > 2 * against_the_public(forgets, drawn)
    assert against_the_public(remembers, capped) > 2 * against_the_public(forgets, capped)
    assert against_the_public(remembers, flips) == pytest.approx(against_the_public(forgets, flips))
