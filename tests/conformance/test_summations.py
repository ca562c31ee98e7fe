"""Every summation, one row each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn

SUMMATIONS = {"Plain": mn.Plain()}


@pytest.mark.parametrize("summation", SUMMATIONS.values(), ids=list(SUMMATIONS))
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.sampled_from([0, 1, 3, 50]), st.data())
def test_the_sum_is_that_of_those_who_answered_in_any_order(summation, count, size, draw):
    answered = draw.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    order = draw.draw(st.permutations(range(count)))
    vectors = np.random.default_rng(count).integers(-1000, 1000, (count, size)).astype(np.float32)
    total = summation.init(size, count)
    for position in order:
        if answered[position]:
            total.add(position, vectors[position])
        else:
            total.skip(position)
    np.testing.assert_array_equal(total.finish(), vectors[np.array(answered)].sum(0, dtype=np.float64))


@pytest.mark.parametrize("summation", SUMMATIONS.values(), ids=list(SUMMATIONS))
def test_a_term_is_summed_once_and_all_are_accounted_for(summation):
    total = summation.init(2, 3)
    total.add(1, np.ones(2, np.float32))
    with pytest.raises(mn.ProtocolAbort):
        total.add(1, np.ones(2, np.float32))
    with pytest.raises(mn.ProtocolAbort):
        total.finish()


@pytest.mark.parametrize("summation", SUMMATIONS.values(), ids=list(SUMMATIONS))
def test_it_says_what_the_server_sees(summation):
    assert summation.view in ("every client's vector", "the sum alone")
