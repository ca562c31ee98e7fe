"""Every layer, one row each: the laws of the protocol."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent.core.canonical import canonical
from manent.core.layers import PLACES, LayerTraits
from manent.core.protocols import traits
from manent.crypto import SystemRandom
from tests.privacy.studies import FEDAVG, stack, vectors

RANDOM = SystemRandom()

# One row an implementation: the layers around it, so that it stands where it may.
LAYERS = {
    "Clip": [mn.Clip(1.0)],
    "Clip, order 1": [mn.Clip(1.0, order=1)],
    "AdaptiveClip": [mn.AdaptiveClip()],
    "Discretize": [mn.Clip(1.0), mn.Discretize()],
    "Discretize, 20 bits, rotated": [mn.Clip(1.0), mn.Discretize(bits=20, rotation=True)],
    "CentralNoise": [mn.Clip(1.0), mn.CentralNoise(0.5)],
    "CentralNoise, laplace": [mn.Clip(1.0, order=1), mn.CentralNoise(0.5, "laplace")],
    "LocalNoise": [mn.AdaptiveClip(), mn.LocalNoise(0.5)],
    "DistributedNoise": [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=0.5)],
    "DistributedNoise, skellam": [mn.Clip(1.0), mn.DistributedNoise("skellam", 0.5)],
    "CorrelatedNoise": [mn.Clip(1.0), mn.CorrelatedNoise(0.5)],
    "CorrelatedNoise, one buffer": [mn.Clip(1.0), mn.CorrelatedNoise(0.5, buffers=1)],
    "CorrelatedNoise, rotated, two bands": [mn.Clip(1.0), mn.Discretize(rotation=True), mn.CorrelatedNoise(0.5, bands=2)],
    "rotated, adaptive, distributed": [
        mn.AdaptiveClip(),
        mn.Discretize(bits=24, rotation=True),
        mn.DistributedNoise(noise_multiplier=0.5),
    ],
}


@pytest.fixture(params=LAYERS, ids=list(LAYERS))
def layers(request):
    return LAYERS[request.param]


BAD = (True, None, "1", math.nan, math.inf, -1, 0)
NUMBERS = {
    mn.Clip: ("norm",),
    mn.AdaptiveClip: ("quantile", "lr", "initial", "count_stddev"),
    mn.Discretize: ("grid", "bits", "failure"),
    mn.FixedPoint: ("step", "limit"),
    mn.CentralNoise: ("noise_multiplier",),
    mn.LocalNoise: ("noise_multiplier",),
    mn.DistributedNoise: ("noise_multiplier", "dropout", "colluders"),
    mn.CorrelatedNoise: ("noise_multiplier", "bands", "buffers"),
}
MAY_BE = {"dropout": (0,), "colluders": (0,)}
OPTIONAL = {"count_stddev", "grid", "bits", "noise_multiplier", "bands", "dropout", "colluders"}


@pytest.mark.parametrize("kind", NUMBERS, ids=[kind.__name__ for kind in NUMBERS])
def test_numbers_of_a_wrong_type_or_size_are_refused(kind):
    needed = {"norm": 1.0} if kind is mn.Clip else {}
    for name in NUMBERS[kind]:
        for bad in BAD:
            if (bad in MAY_BE.get(name, ()) and bad is not True) or (bad is None and name in OPTIONAL):
                continue
            with pytest.raises(mn.InvalidInput, match=f"{kind.__name__} expects .*{name}"):
                kind(**{**needed, name: bad})


def test_every_layer_declares_its_place_and_little_else():
    for layers in LAYERS.values():
        found = [traits(layer, LayerTraits) for layer in layers]
        places = [one.place for one in found if one.place is not None]
        assert places == sorted(places, key=PLACES.index)
        for layer, one in zip(layers, found, strict=True):
            assert one.noise_multiplier == getattr(layer, "noise_multiplier", None)
            assert one.correlates_rounds == isinstance(layer, mn.CorrelatedNoise)
            assert one.needs_independent_rounds == isinstance(layer, mn.AdaptiveClip)
            assert one.minimum(10) == (10 if isinstance(layer, mn.DistributedNoise) else 0)
            one.check_cohort(1, False)
            one.check_sum("train", 1)


def test_the_stage_with_noise_has_a_cost_and_no_other(layers):
    costs = [stage.cost for stage in stack(layers, 11, 20).stages]
    assert [cost is not None for cost in costs[:-1]] == [False] * (len(costs) - 1)
    assert (costs[-1] is not None) == ("Noise" in type(layers[-1]).__name__)


def test_forms_and_vectors_agree_in_every_stage(layers):
    made = stack(layers, 11, 20)
    rows, sent = vectors(20, 11), made.sends(made.init())
    parts = [{name.split(".", 2)[2]: a for name, a in sent.items() if name.startswith(f"layer.{i}.")} for i in range(9)]
    for stage, part in zip(made.stages, parts, strict=False):
        rows = stage.client(rows, part, RANDOM)
        form = stage.form
        assert rows.shape == (20, form.layout.size)
        assert rows.dtype == (np.int64 if form.grid is not None else np.float64) or form.grid is None
        assert (form.l2 is not None and form.largest is not None) or traits(layers[0], LayerTraits).place is None
        if form.largest is not None:
            assert np.abs(rows).max() <= form.largest * (1 + 1e-9) + form.spread
        if form.spread == 0:
            norms = np.linalg.norm(rows.astype(np.float64), axis=1)
            assert form.l2 is None or (norms <= form.l2 * (1 + 1e-9)).all()
            assert form.l1 is None or (np.abs(rows).sum(1) <= form.l1 * (1 + 1e-9)).all()
    assert rows.dtype == made.dtype or made.dtype is np.float64


def test_the_server_half_gives_the_algorithms_layout_and_state_of_the_same_shape(layers):
    made = stack(layers, 11, 20)
    state = made.init()
    total = made.client(vectors(20, 11), made.sends(state), RANDOM).sum(0)
    kept = {name: array.copy() for name, array in state.items()}
    result, after = made.server(total, state, RANDOM)
    assert result.shape == (11,)
    assert result.dtype == np.float64
    assert {name: array.shape for name, array in after.items()} == {name: array.shape for name, array in state.items()}
    for name, array in kept.items():
        np.testing.assert_array_equal(state[name], array, err_msg="the old state was modified")
    assert all(array.dtype == np.float32 for array in made.sends(after).values())


def test_many_clients_together_are_each_by_itself(layers):
    if "Noise" in str(layers) or "bits" in str(layers):
        pytest.skip("draws of its own")
    made = stack(layers, 11, 20)
    rows, sent = vectors(5, 11), made.sends(made.init())
    alone = [made.client(row[None], sent, RANDOM)[0] for row in rows]
    np.testing.assert_array_equal(made.client(rows, sent, RANDOM), alone)
    assert made.client(rows[:0], sent, RANDOM).shape[0] == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_vectors_given_are_not_modified(seed):
    for layers in LAYERS.values():
        made = stack(layers, 11, 20)
        rows = vectors(3, 11, seed)
        kept = rows.copy()
        made.client(rows, made.sends(made.init()), RANDOM)
        np.testing.assert_array_equal(rows, kept)


def test_they_keep_nothing_on_the_clients(layers):
    made = stack(layers, 11, 20)
    assert made.memory() is None
    assert all(stage.memory() is None for stage in made.stages)
    if "Noise" in str(layers) or "bits" in str(layers):
        return  # draws of its own
    rows, sent = vectors(5, 11), made.sends(made.init())
    out, kept = made.remember(rows, np.zeros((5, 0), np.float32), sent, RANDOM)
    np.testing.assert_array_equal(out, made.client(rows, sent, RANDOM))
    assert kept.shape == (5, 0)


def test_a_clip_sends_zeros_in_place_of_a_broken_vector(layers):
    if traits(layers[0], LayerTraits).place != "clip":
        return  # nothing bounds the vector
    made = stack(layers[:1], 11, 20)
    for bad in (np.nan, np.inf, -np.inf):
        rows = vectors(1, 11)
        rows[0, 3] = bad
        assert not made.client(rows, made.sends(made.init()), RANDOM).any()


def test_without_noise_the_sum_comes_back_through_the_layers(layers):
    quiet = [layer for layer in layers if "Noise" not in type(layer).__name__]
    made = stack(quiet, 11, 20)
    state = made.init()
    rows = vectors(20, 11, scale=0.01 / math.sqrt(11))
    result, _ = made.server(made.client(rows, made.sends(state), RANDOM).sum(0), state, RANDOM)
    grid = (made.form.grid or 0) * 20 * 4
    np.testing.assert_allclose(result, rows.sum(0, dtype=np.float64), rtol=1e-6, atol=grid + 1e-9)


def test_layers_are_plain_data_with_a_stable_hash(layers):
    study = mn.Study(FEDAVG, layers=layers)
    assert canonical(json.loads(canonical(study.to_plain()))) == canonical(study.to_plain())
    assert study.hash == mn.Study(FEDAVG, layers=list(layers)).hash != mn.Study(FEDAVG).hash
