"""Layouts: what is flattened comes back, and what does not fit is refused by name."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.core.vectors import Block, Entry, Layout, scalar

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def layouts(draw):
    sizes = draw(st.lists(st.lists(shapes, min_size=1, max_size=3), min_size=1, max_size=4))
    return Layout(
        tuple(Block(f"b{i}", tuple(Entry(f"b{i}.t{j}", s) for j, s in enumerate(block))) for i, block in enumerate(sizes))
    )


def two_blocks() -> Layout:
    return Layout((Block("parameters", (Entry("weight", (2, 3)), Entry("bias", (2,)))), scalar("count", bound=10.0)))


@given(layouts(), st.integers(0, 2**32))
def test_flatten_and_unflatten_are_inverse(layout, seed):
    vector = np.random.default_rng(seed).normal(size=layout.size).astype(np.float32)
    tensors = layout.unflatten(vector)
    assert [t.shape for t in tensors.values()] == [e.shape for b in layout.blocks for e in b.entries]
    again = layout.flatten(tensors)
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, vector)


@given(layouts())
def test_blocks_tile_the_vector(layout):
    end = 0
    for block in layout.blocks:
        where = layout.slice(block.name)
        assert where.start == end
        assert where.stop - where.start == block.size
        end = where.stop
    assert end == layout.size


def test_order_is_that_of_the_layout_and_rows_come_first():
    layout = two_blocks()
    flat = layout.flatten({"count": 9.0, "bias": [6, 7], "weight": [[0, 1, 2], [3, 4, 5]]})
    np.testing.assert_array_equal(flat, [0, 1, 2, 3, 4, 5, 6, 7, 9])
    assert layout.slice("count") == slice(8, 9)
    assert layout.blocks[1].bound == 10.0
    assert "parameters" in layout
    assert "weight" not in layout


def test_unflattened_tensors_are_views():
    layout, vector = two_blocks(), np.zeros(9, np.float32)
    layout.unflatten(vector)["bias"][1] = 5
    assert vector[7] == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bias": None}, ["bias", "(2,)", "missing"]),
        ({"bais": np.zeros(2)}, ["bais", "not in the layout", "bias"]),
        ({"weight": np.zeros((3, 2))}, ["weight", "(3, 2)", "(2, 3)"]),
        ({"bias": np.array([1.0, np.nan])}, ["bias", "NaN"]),
        ({"weight": np.full((2, 3), np.inf)}, ["weight", "infinity"]),
        ({"weight": np.full((2, 3), 1e300)}, ["weight", "infinity"]),
        ({"bias": np.array(["a", "b"])}, ["bias", "numbers"]),
        ({"bias": np.array([1j, 2j])}, ["bias", "numbers", "complex"]),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change, words):
    tensors = {"weight": np.zeros((2, 3)), "bias": np.zeros(2), "count": np.float32(1)} | change
    those = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidInput) as refused:
            two_blocks().flatten(those)
    assert all(word in str(refused.value) for word in words)


@given(layouts().filter(lambda layout: layout.size > 0), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_the_first_tensor_that_is_not_finite_is_found(layout, bad, data):
    vector = np.full(layout.size, np.finfo(np.float32).max, np.float32)
    assert layout.not_finite(vector) is None
    at = data.draw(st.integers(0, layout.size - 1))
    vector[at] = bad
    (holder,) = [name for name, t in layout.unflatten(np.arange(layout.size)).items() if at in t]
    assert layout.not_finite(vector) == holder
    with pytest.raises(InvalidInput, match=holder):
        layout.check_finite(vector)


def test_opposite_infinities_do_not_cancel_and_nothing_is_printed():
    vector = np.zeros(9, np.float32)
    vector[6], vector[8] = np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert two_blocks().not_finite(vector) == "bias"


def test_large_float64_terms_are_finite_though_their_sum_is_not():
    assert two_blocks().not_finite(np.full(9, 1.7e308)) is None


@pytest.mark.parametrize("vector", [np.zeros(8), np.zeros(10), np.zeros((9, 1)), np.float32(1)])
def test_a_vector_of_another_size_is_refused(vector):
    with pytest.raises(InvalidInput, match="9 numbers"):
        two_blocks().unflatten(vector)


def test_names_are_unique():
    with pytest.raises(InvalidInput, match="block names; 'a'"):
        Layout((scalar("a"), Block("a", (Entry("b", ()),))))
    with pytest.raises(InvalidInput, match="tensor names; 'w'"):
        Layout((Block("a", (Entry("w", ()),)), Block("b", (Entry("w", (2,)),))))


def test_an_unknown_block_is_answered_with_those_there_are():
    with pytest.raises(InvalidInput, match="'weights'.*parameters, count"):
        two_blocks().slice("weights")
