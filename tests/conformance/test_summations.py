"""Every summation, one row each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import manent as mn
from manent.core.layers import Form
from manent.core.protocols import Occasion
from manent.core.sums import Partial
from manent.core.vectors import Block, Entry, Layout

LARGEST = 1000
SUMMATIONS = {
    "Plain": mn.Plain(),
    "SecAgg": mn.SecAgg(minimum_cohort=3),
    "SecAgg, curious": mn.SecAgg(minimum_cohort=3, adversary="curious", post_quantum=False),
    "SecAgg, modelled": mn.SecAgg(minimum_cohort=3, modelled=True),
}
EACH = pytest.mark.parametrize("summation", SUMMATIONS.values(), ids=list(SUMMATIONS))


def form_of(size: int, grid: float | None = 1.0) -> Form:
    layout = Layout((Block("v", (Entry("v", (size,)),)),))
    return Form(layout, grid, largest=LARGEST if grid else None)


def occasion_of(summation, size, count, vanish=None, grid=1.0) -> Occasion:
    fates = (None,) * count if vanish is None else tuple(vanish)
    return Occasion(b"s" * 32, "train", 1, b"m" * 32, form_of(size, grid), count, summation.minimum(count), fates)


def vectors_of(count: int, size: int) -> np.ndarray:
    """At the bound in the first number."""
    vectors = np.random.default_rng(count).integers(-LARGEST, LARGEST + 1, (count, size))
    vectors[:, :1] = LARGEST
    return vectors


@EACH
@settings(max_examples=30, deadline=None)
@given(st.integers(3, 14), st.sampled_from([0, 1, 3, 50]), st.data())
def test_the_sum_is_that_of_those_who_answered_in_any_order_or_there_is_none(summation, count, size, data):
    fates = st.sampled_from([None, None, None, None, "before_training", "before_upload", "after_upload"])
    vanish = data.draw(st.lists(fates, min_size=count, max_size=count))
    order = data.draw(st.permutations(range(count)))
    answered = np.array([fate in (None, "after_upload") for fate in vanish])
    assume(answered.any())
    vectors = vectors_of(count, size)
    total = summation.init(occasion_of(summation, size, count, vanish))
    for position in order:
        if answered[position]:
            total.add(position, vectors[position])
        else:
            total.skip(position)
    try:
        found = total.finish()
    except mn.ProtocolAbort as error:
        assert len(str(error)) > 10  # noqa: PT017
        assert any(vanish)
        return
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, vectors[answered].sum(0))


@EACH
@pytest.mark.parametrize("missing", ["before_training", "before_upload", "after_upload"])
def test_a_few_that_vanish_stop_no_sum(summation, missing):
    vanish = [missing if position in (2, 8) else None for position in range(10)]
    vectors, total = vectors_of(10, 7), summation.init(occasion_of(summation, 7, 10, vanish))
    there = [p for p in range(10) if vanish[p] in (None, "after_upload")]
    for position in range(10):
        total.merge(Partial(0, position, vectors[position].copy() if position in there else None))
    np.testing.assert_array_equal(total.finish(), vectors[there].sum(0))


@EACH
def test_a_term_is_summed_once(summation):
    total = summation.init(occasion_of(summation, 2, 5))
    total.add(1, np.ones(2, np.int64))
    total.skip(2)
    for position in (1, 2):
        with pytest.raises(mn.ProtocolAbort, match="twice"):
            total.add(position, np.ones(2, np.int64))
        with pytest.raises(mn.ProtocolAbort, match="twice"):
            total.skip(position)


@EACH
def test_all_are_accounted_for(summation):
    total = summation.init(occasion_of(summation, 2, 5))
    for position in range(4):
        total.add(position, np.ones(2, np.int64))
    with pytest.raises(mn.ProtocolAbort, match="4 of 5"):
        total.finish()
    for outside in (-1, 5):
        with pytest.raises(mn.InvalidInput, match="outside a cohort of 5"):
            total.skip(outside)
    with pytest.raises(mn.InvalidInput):
        total.add(4, np.ones(3, np.int64))


@EACH
def test_it_says_what_the_server_sees_and_what_that_rests_on(summation):
    assert summation.view in ("every client's vector", "the sum alone")
    lines = summation.explain(form_of(3), 20, 10)
    assert (summation.view == "the sum alone") == bool(lines)
    assert all(isinstance(line, str) and line for line in lines)


@EACH
def test_a_number_on_its_way_has_room_for_what_is_summed(summation):
    one, bits = 2 * LARGEST + 1, summation.bits(form_of(3), 20)
    assert 2**bits >= (one if summation.together and summation.view != "the sum alone" else 20 * one)


@pytest.mark.parametrize("name", [name for name, row in SUMMATIONS.items() if row.view == "the sum alone"])
def test_where_vectors_are_hidden_real_numbers_and_small_cohorts_are_refused(name):
    summation = SUMMATIONS[name]
    with pytest.raises(mn.Refused, match="whole numbers"):
        summation.bits(form_of(3, None), 10)
    with pytest.raises(mn.Refused, match="minimum of 3"):
        summation.minimum(2)
    assert 3 <= summation.minimum(10) <= 10


def test_plain_sums_real_numbers_too():
    total = mn.Plain().init(occasion_of(mn.Plain(), 2, 3, grid=None))
    for position in range(3):
        total.add(position, np.full(2, 0.5, np.float32))
    np.testing.assert_array_equal(total.finish(), np.full(2, 1.5))
