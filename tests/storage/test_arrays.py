"""Named arrays in pieces: what safetensors writes is read, what is written safetensors reads, and nothing else is taken."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from manent.core.errors import InvalidInput
from manent.storage.arrays import array_pieces, decode_arrays, encode_arrays, read_arrays

KINDS = st.sampled_from(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"])
ARRAYS = hnp.arrays(KINDS, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
NAMED = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5).filter("__metadata__".__ne__), ARRAYS, max_size=4)


def same(first, second):
    assert set(first) == set(second)
    for name, array in first.items():
        assert (array.dtype, array.shape, array.tobytes()) == (second[name].dtype, second[name].shape, second[name].tobytes())


@given(NAMED)
def test_both_ways_with_safetensors(arrays):
    arrays = {name: np.array(array) for name, array in arrays.items()}
    same(load(encode_arrays(arrays)), arrays)
    same(decode_arrays(save(arrays)), arrays)


@given(NAMED, st.integers(1, 50))
def test_any_chunks(arrays, step):
    data = encode_arrays(arrays)
    chunks = [data[start : start + step] for start in range(0, len(data), step)]
    same(read_arrays(chunks, len(data)), {name: np.array(array) for name, array in arrays.items()})


@given(NAMED, st.data())
def test_what_is_altered_is_refused_or_is_arrays(arrays, draw):
    data = bytearray(encode_arrays(arrays))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        found = decode_arrays(bytes(data))
    except InvalidInput:
        return
    assert sum(array.nbytes for array in found.values()) <= len(data)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data):
    with pytest.raises(InvalidInput):
        decode_arrays(data)


def packed(head, data=b""):
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        packed({"a": ENTRY}, bytes(7)),
        packed({"a": ENTRY}, bytes(9)),
        packed({"a": {**ENTRY, "shape": [1 << 40]}}, bytes(8)),
        packed({"a": {**ENTRY, "shape": [-2]}}, bytes(8)),
        packed({"a": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12)),
        packed({"a": ENTRY, "b": ENTRY}, bytes(8)),
        packed({"a": {**ENTRY, "dtype": "BF16"}}, bytes(8)),
        packed({"a": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\x02"),
        packed([ENTRY]),
        (1 << 60).to_bytes(8, "little") + bytes(100),
    ],
)
def test_what_lies_is_refused_before_memory_is_taken(data):
    with pytest.raises(InvalidInput, match="not named arrays"):
        decode_arrays(data)


def test_an_array_of_no_numbers_is_refused():
    with pytest.raises(InvalidInput, match="numbers"):
        list(array_pieces({"a": np.array(["x"])}))
