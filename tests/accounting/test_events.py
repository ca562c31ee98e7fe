"""The event tree: its canonical form, what it refuses, and what it counts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent import accounting as ac
from manent.accounting.events import composed, counted, parse, text, to_plain

positive = st.floats(1e-3, 1e6)
whole = st.integers(1, 10**6)
relations = st.sampled_from(["add_or_remove", "replace_one", "zero_out"])
leaves = st.one_of(
    st.builds(ac.Gaussian, positive),
    st.builds(ac.RoundedGaussian, positive, st.floats(0, 1e-20)),
    st.builds(ac.DiscreteGaussian, positive),
    st.builds(ac.DiscreteLaplace, positive, whole),
    st.builds(ac.DistributedDiscreteGaussian, positive, whole, positive, positive, whole),
    st.builds(ac.Skellam, positive, positive, positive),
    st.builds(ac.MatrixFactorisation, positive, st.integers(100, 1000), st.integers(1, 10), st.integers(1, 10)),
    st.builds(ac.ZeroConcentrated, positive),
    st.builds(ac.PureRelease, positive, relations),
)
probability = st.floats(1e-6, 1)
samplings = st.one_of(
    st.builds(ac.Poisson, probability),
    st.builds(ac.TruncatedPoisson, probability, whole, whole),
    st.builds(lambda n, more: ac.FixedSize(n, n + more), whole, whole),
)
events = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(ac.Sampled, inner, samplings),
        st.builds(ac.Repeated, inner, st.integers(0, 1000)),
        st.builds(ac.Composed, st.lists(inner, max_size=4).map(tuple)),
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(events)
def test_an_event_comes_back_from_its_text(event):
    assert parse(text(event)) == event
    assert parse(json.loads(text(event))) == event
    assert text(parse(text(event))) == text(event)


@settings(deadline=None)
@given(events)
def test_the_bag_of_an_event_is_an_event_of_the_same_bag(event):
    assert counted(composed(counted(event))) == counted(event)
    assert counted(ac.Repeated(event, 3)) == {part: 3 * count for part, count in counted(event).items()}


def test_texts_do_not_change():
    """Rows of old ledgers are read with these: a change here is a new version, not an edit."""
    sampled = ac.Sampled(ac.RoundedGaussian(2.5), ac.Poisson(0.01))
    rounded = '{"noise_multiplier":2.5,"sampler_error":0.0,"type":"RoundedGaussian","version":1}'
    assert text(ac.Gaussian(1)) == '{"noise_multiplier":1.0,"type":"Gaussian","version":1}'
    assert text(sampled.event) == rounded
    assert text(sampled) == (
        '{"by":{"probability":0.01,"type":"Poisson","version":1},"event":' + rounded + ',"type":"Sampled","version":1}'
    )


@pytest.mark.parametrize(
    "change",
    [
        {"type": "Guassian"},
        {"version": 2},
        {"version": True},
        {"version": 1.0},
        {"further": 1},
        {"noise_multiplier": "1"},
        {"noise_multiplier": True},
        {"noise_multiplier": None},
        {"noise_multiplier": 0},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": float("nan")},
        {"noise_multiplier": float("inf")},
        {"noise_multiplier": 10**400},
        {"noise_multiplier": {"type": "Gaussian", "version": 1, "noise_multiplier": 1.0}},
    ],
)
def test_what_is_not_exactly_an_event_is_refused(change):
    values = {**to_plain(ac.Gaussian(1.0)), **change}
    with pytest.raises(mn.InvalidInput):
        parse(values)


@pytest.mark.parametrize("values", ["", "{", "[]", "null", "1", "[" * 100_000, {}, None, [], b"\xff", to_plain(ac.Poisson(0.5))])
def test_other_things_are_no_events(values):
    with pytest.raises(mn.InvalidInput):
        parse(values)


def test_events_do_not_nest_without_end():
    def nest() -> None:
        event = ac.Gaussian(1.0)
        for _ in range(100):
            event = ac.Repeated(event, 1)

    with pytest.raises(mn.InvalidInput, match="deep"):
        nest()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ac.Sampled(ac.Gaussian(1), 0.1),
        lambda: ac.Sampled(ac.Poisson(0.1), ac.Poisson(0.1)),
        lambda: ac.Repeated(ac.Gaussian(1), -1),
        lambda: ac.Repeated(ac.Gaussian(1), 1.5),
        lambda: ac.Repeated("Gaussian", 1),
        lambda: ac.Composed((object(),)),
        lambda: ac.Poisson(0.0),
        lambda: ac.Poisson(1.1),
        lambda: ac.FixedSize(11, 10),
        lambda: ac.DiscreteLaplace(1.0, 0),
        lambda: ac.RoundedGaussian(1.0, -1e-9),
        lambda: ac.PureRelease(1.0, "replace"),
        lambda: ac.MatrixFactorisation(1.0, rounds=10, participations=3, min_separation=5),
    ],
)
def test_events_that_cannot_be_are_refused(make):
    with pytest.raises(mn.InvalidInput):
        make()


def test_sampling_is_taken_away_everywhere():
    event = ac.Composed((ac.training(1.0, 10, 0.1), ac.Repeated(ac.Sampled(ac.Gaussian(2), ac.FixedSize(1, 5)), 3)))
    assert counted(ac.without_sampling(event)) == {ac.Gaussian(1.0): 10, ac.Gaussian(2.0): 3}


def test_sampling_everyone_is_no_sampling():
    assert counted(ac.training(1.0, 5, 1.0)) == counted(ac.training(1.0, 5))
