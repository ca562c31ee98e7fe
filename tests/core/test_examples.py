"""A client's data: rows stay together, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.core.examples import Column, Examples, Schema, join


def examples(n: int, start: int = 0) -> Examples:
    row = np.arange(start, start + n)
    return Examples(np.stack([row, row], 1).astype(np.float32), row, {"age": row * 2.0})


@given(st.integers(0, 20), st.data())
def test_rows_stay_together(n, data):
    chosen = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=30)) if n else [], dtype=int)
    part = examples(n)[chosen]
    assert len(part) == len(chosen)
    assert part.x[:, 0].tolist() == part.y.tolist() == (part.columns["age"] / 2).tolist() == chosen.tolist()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_joined_and_cut_again_is_the_same(lengths):
    starts = np.cumsum([0, *lengths])
    whole = join([examples(n, s) for n, s in zip(lengths, starts, strict=False)])
    assert whole.y.tolist() == list(range(sum(lengths)))
    for n, start in zip(lengths, starts, strict=False):
        part, alone = whole[slice(start, start + n)], examples(n, start)
        np.testing.assert_array_equal(part.x, alone.x)
        np.testing.assert_array_equal(part.columns["age"], alone.columns["age"])


def test_arrays_of_other_lengths_are_refused():
    with pytest.raises(InvalidInput, match="x 3, y 2"):
        Examples(np.zeros((3, 1)), np.zeros(2))
    with pytest.raises(InvalidInput, match="age 4"):
        Examples(np.zeros((3, 1)), np.zeros(3), {"age": np.zeros(4)})


def test_what_cannot_be_joined_is_refused():
    with pytest.raises(InvalidInput, match="at least one"):
        join([])
    with pytest.raises(InvalidInput, match="columns.*age.*none"):
        join([examples(2), Examples(np.zeros((1, 2)), np.zeros(1))])
    with pytest.raises(InvalidInput, match=r"\(2,\).*\(3,\)"):
        join([Examples(np.zeros((1, 2)), np.zeros(1)), Examples(np.zeros((1, 3)), np.zeros(1))])


def test_a_column_is_found_wherever_it_is_declared():
    schema = Schema(features=(Column("age"),), target=Column("ill"), columns=(Column("height", unit="m"),))
    assert [schema.column(name).name for name in ("age", "ill", "height")] == ["age", "ill", "height"]
    assert schema.column("height").unit == "m"
    with pytest.raises(InvalidInput, match="'hight'.*age, ill, height"):
        schema.column("hight")
    with pytest.raises(InvalidInput, match="no columns"):
        Schema().column("age")
