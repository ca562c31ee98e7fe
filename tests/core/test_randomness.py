"""Repeatable randomness: the same from the same arguments, for ever, and independent otherwise."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manent.core.protocols import ClientContext
from manent.core.randomness import repeatable, repeatable_seed

paths = st.tuples(st.integers(), st.text(max_size=5), st.lists(st.integers() | st.text(max_size=5), max_size=3).map(tuple))


def test_values_are_frozen():
    # A change of these breaks every run that someone wants to repeat.
    assert repeatable_seed(0, "init") == 0xED2503851EED72E045C5D782F6C5C39E
    assert repeatable_seed(7, "batches", 3, "Zurich") == 0xAD1F8DB25AEA78805DD81B9190ACF6B8
    assert repeatable(0, "init").integers(0, 1000, 4).tolist() == [317, 392, 204, 874]
    assert repeatable(7, "batches", 3, "Zurich").normal(size=2).tolist() == [1.6173611688116485, 1.4968644074033244]


@given(st.integers(), st.text(max_size=5))
def test_it_is_philox_with_this_key(seed, purpose):
    ours = repeatable(seed, purpose)
    theirs = np.random.Generator(np.random.Philox(key=repeatable_seed(seed, purpose)))
    assert ours.bytes(40) == theirs.bytes(40)


@given(paths, paths)
def test_different_arguments_give_different_seeds(a, b):
    same = repeatable_seed(a[0], a[1], *a[2]) == repeatable_seed(b[0], b[1], *b[2])
    assert same == (a == b)


def test_parts_do_not_run_together():
    variants = [
        (1, "a", "b"),
        (1, "ab"),
        (1, "a", "", "b"),
        (11, "a", "b"),
        (1, "a", 1),
        (1, "a", "1"),
        (1, "a", 1, 1),
        (1, "a", 11),
    ]
    assert len({repeatable_seed(seed, *rest) for seed, *rest in variants}) == len(variants)


def test_a_number_from_numpy_is_the_same_number():
    assert repeatable_seed(np.int64(3), "init", np.int32(5)) == repeatable_seed(3, "init", 5)


def test_purposes_are_independent():
    rounds, clients = range(1, 5), ["a", "b", "c"]
    draws = np.array([repeatable(1, p, r, c).normal(size=500) for p in ("init", "batches") for r in rounds for c in clients])
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 0.2  # 4.5 standard deviations


def test_drawing_more_for_one_purpose_changes_no_other():
    first = repeatable(1, "init").normal(size=3)
    repeatable(1, "cohort").normal(size=100)
    assert repeatable(1, "init").normal(size=3).tolist() == first.tolist()


def test_a_clients_randomness_depends_on_client_round_purpose_and_seed():
    contexts = [ClientContext(c, r, s) for c, r, s in itertools.product(("a", "b"), (1, 2), (0, 1))]
    drawn = {context.rng(purpose).integers(2**60) for context in contexts for purpose in ("batches", "dropout")}
    assert len(drawn) == 16
    assert ClientContext("a", 1, 0, work=0.5).rng("batches").random() == ClientContext("a", 1, 0).rng("batches").random()
