"""Named arrays as safetensors, a piece at a time, so that neither end holds more than the arrays themselves.

The format is that of https://github.com/huggingface/safetensors: `u64 n ‖ JSON of n bytes ‖ data`, least significant byte first,
data without gaps. What is read may come from anybody.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any, TypeGuard

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.vectors import Array

MOST_HEAD = 1 << 24
_TYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype(bool),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def array_pieces(arrays: Mapping[str, Array]) -> Iterator[bytes | memoryview]:
    """The bytes of named arrays, in pieces. An array that lies in memory as it is sent is not copied.

    Raises InvalidInput for arrays of anything but numbers and truth values.
    """
    head, at = {}, 0
    flat = {name: np.asarray(array) for name, array in arrays.items()}
    for name in sorted(flat, key=lambda name: (-flat[name].dtype.itemsize, name)):
        kind = flat[name].dtype.newbyteorder("<")
        if kind not in _NAMES:
            raise InvalidInput(f"Expected an array of numbers as {name!a:.80}; found one of {flat[name].dtype}.")
        size = flat[name].nbytes
        head[name] = {"dtype": _NAMES[kind], "shape": list(flat[name].shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in head:
        if flat[name].size:
            lying = np.ascontiguousarray(flat[name], flat[name].dtype.newbyteorder("<"))
            yield lying.reshape(-1).view(np.uint8).data


def encode_arrays(arrays: Mapping[str, Array]) -> bytes:
    """The bytes of named arrays at once. Raises InvalidInput as `array_pieces`."""
    return b"".join(array_pieces(arrays))


def read_arrays(chunks: Iterable[bytes], size: int) -> dict[str, Array]:
    """Named arrays from chunks that have `size` bytes together. Raises InvalidInput for anything else."""
    source = _Source(chunks)
    length = int.from_bytes(source.take(min(8, size)), "little")
    if size < 8 or length > min(size - 8, MOST_HEAD):
        raise _no_arrays("their head is longer than they are")
    listed = _listed(source.take(length))
    found, at = {}, 0
    for name, (dtype, shape, start, stop) in sorted(listed.items(), key=lambda item: (item[1][2], item[1][3])):
        if start != at or stop - start != dtype.itemsize * prod(shape) or stop > size - 8 - length:
            raise _no_arrays(f"{name!a:.80} does not lie where it says")
        found[name] = np.empty(shape, dtype)
        if stop > start:
            source.fill(found[name].reshape(-1).view(np.uint8).data)
        at = stop
    if at != size - 8 - length:
        raise _no_arrays("something is left over")
    for name, array in found.items():
        if array.dtype == bool and array.view(np.uint8).max(initial=0) > 1:
            raise _no_arrays(f"{name!a:.80} holds what is no truth value")
    return found


def decode_arrays(data: bytes) -> dict[str, Array]:
    """Named arrays from bytes in memory; see `read_arrays`."""
    return read_arrays([data], len(data))


def _listed(text: bytes) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]]:
    """Type, shape, start and stop by name."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise _no_arrays("their head is no JSON object")
    table.pop("__metadata__", None)
    found = {}
    for name, entry in table.items():
        values = entry if isinstance(entry, dict) else {}
        kind, shape, offsets = values.get("dtype"), values.get("shape"), values.get("data_offsets")
        if not isinstance(kind, str) or kind not in _TYPES or not _whole(shape) or not _whole(offsets) or len(offsets) != 2:
            raise _no_arrays(f"{name!a:.80} is not described as an array that numpy can hold")
        found[name] = _TYPES[kind], tuple(shape), offsets[0], offsets[1]
    return found


def _whole(found: Any) -> TypeGuard[list[int]]:
    return isinstance(found, list) and len(found) <= 32 and all(type(n) is int and 0 <= n < 1 << 48 for n in found)


def _no_arrays(reason: str) -> InvalidInput:
    return InvalidInput(f"These bytes are not named arrays that numpy can hold: {reason}.")


class _Source:
    """Takes bytes from chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._left = iter(chunks), memoryview(b"")

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        found = bytearray(count)
        self.fill(memoryview(found))
        return bytes(found)

    def fill(self, room: memoryview) -> None:
        """Fill memory with the next bytes."""
        while room:
            if not self._left:
                following = next(self._chunks, None)
                if following is None:
                    raise _no_arrays("they are cut short")
                self._left = memoryview(following)
            count = min(len(room), len(self._left))
            room[:count] = self._left[:count]
            room, self._left = room[count:], self._left[count:]
