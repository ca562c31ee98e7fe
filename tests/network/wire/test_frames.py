"""Frames: whatever bytes come, a message that fits or InvalidInput."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manent.core.errors import InvalidInput
from manent.network.wire import frames

NUMBERS = st.sampled_from(["<f4", "<f8", ">f8", "<i8", "<i4", "|u1", "|b1", "<f2"])
ARRAYS = st.dictionaries(
    st.text(max_size=5),
    NUMBERS.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))),
    max_size=3,
)
PLAIN = st.dictionaries(
    st.text(max_size=5).filter(lambda name: name != "arrays"), st.integers() | st.text() | st.none(), max_size=3
)


def through(data: bytes, most: int = 10_000) -> frames.Frame | None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return frames.read(file.fileno(), most, file=True)


@given(PLAIN, ARRAYS)
def test_a_frame_comes_back(head, arrays):
    found = through(b"".join(frames.encode(head, arrays)))
    assert found.head == head
    assert list(found.arrays) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].shape == array.shape


@given(PLAIN, ARRAYS, st.data())
def test_a_frame_that_is_cut_or_changed_is_a_frame_or_refused(head, arrays, draw):
    whole = b"".join(frames.encode(head, arrays))
    if draw.draw(st.booleans()):
        changed = whole[: draw.draw(st.integers(1, len(whole) - 1))]
        with pytest.raises(InvalidInput):
            through(changed)
        return
    at = draw.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes([draw.draw(st.integers(0, 255))]) + whole[at + 1 :]
    try:
        found = through(changed)
    except InvalidInput:
        return
    assert sum(array.nbytes for array in found.arrays.values()) <= 10_000


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_refused(data):
    with contextlib.suppress(InvalidInput):
        through(data)


@pytest.mark.parametrize(
    "listed",
    [
        None, {}, [1], [["a", "<f4"]], [["a", "<f4", [-1]]], [["a", "<f4", 3]], [["a", "|O", [1]]], [["a", "<U4", [1]]],
        [["a", "<f4", [1 << 50]]], [["a", "<f4", [10_001]]], [["a", "<f4", [True]]], [["a", "<f4", [1]], ["a", "<f4", [1]]],
        [["a", "<f1", [1]]], [[1, "<f4", [1]]], [["a", "<f8", [1000]], ["b", "<f8", [1000]]],
    ],
)  # fmt: skip
def test_arrays_that_nobody_asked_for_are_refused_before_memory_is_taken(listed):
    text = json.dumps({"arrays": listed}).encode()
    with pytest.raises(InvalidInput):
        through(len(text).to_bytes(4, "little") + text + bytes(30_000))


@pytest.mark.parametrize("text", [b"[" * 50_000, b"1", b"null", b"{", b'{"a":' + b"9" * 5000 + b"}", b"\xff"])
def test_a_head_that_is_no_table_is_refused(text):
    with pytest.raises(InvalidInput):
        through(len(text).to_bytes(4, "little") + text)


def test_a_long_head_is_refused_before_it_is_read():
    steps = frames.reading(0, head=10)
    window = next(steps)
    window[:] = (11).to_bytes(4, "little")
    with pytest.raises(InvalidInput, match="at most 10"):
        next(steps)


def test_what_is_no_number_is_not_sent():
    for array in (np.array(["a"]), np.array([{}]), np.zeros(2, complex), np.array([], "M8[s]")):
        with pytest.raises(InvalidInput, match="numbers"):
            frames.encode({}, {"x": array})


def test_a_pipe_may_end_between_frames_and_not_within_one():
    reading, writing = os.pipe()
    frames.write(writing, {"a": 1}, {"x": np.arange(3)})
    os.write(writing, b"\x05\x00")
    os.close(writing)
    assert frames.read(reading).head == {"a": 1}
    with pytest.raises(InvalidInput, match="within"):
        frames.read(reading)
    os.close(reading)
