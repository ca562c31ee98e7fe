"""Messages between a site and the process of a study's code: a JSON head and raw arrays, never code or pickles.

A frame is a length (u32, least significant byte first), a head of that many bytes, and arrays. The head is a JSON table; its
member "arrays" lists [name, type, shape] of each array. The arrays follow in that order, least significant byte first and in
row-major order.

What is read comes from code that is not trusted: a reader never allocates more than it has asked for.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.vectors import Array
from manent.rounds.strict import shown

MOST_HEAD = 1 << 24
_TYPE = re.compile(r"[<|][biuf][1248]")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Frame:
    """A message: plain data, and arrays by name."""

    head: Mapping[str, Any]
    arrays: Mapping[str, Array]


def encode(head: Mapping[str, Any], arrays: Mapping[str, Array]) -> list[memoryview]:
    """The bytes of a frame, in pieces. An array that lies in memory as it is sent is not copied.

    Raises InvalidInput for an array of anything but real numbers and truth values, and for a head of more than MOST_HEAD bytes.
    """
    listed, pieces = [], []
    for name, array in arrays.items():
        flat: Array = np.asarray(array)
        if flat.dtype.byteorder == ">":
            flat = flat.astype(flat.dtype.newbyteorder("<"))
        kind = flat.dtype.newbyteorder("<").str
        if not _TYPE.fullmatch(kind):
            raise InvalidInput(f"Expected an array of numbers as {name!r}, found one of {shown(str(flat.dtype))}. Use numbers.")
        listed.append([name, kind, list(flat.shape)])
        if flat.size:
            pieces.append(_bytes(np.ascontiguousarray(flat)))
    text = json.dumps({**head, "arrays": listed}).encode()
    if len(text) > MOST_HEAD:
        raise InvalidInput(f"The head of a frame has at most {MOST_HEAD:,} bytes; found {len(text):,}.")
    return [memoryview(_LENGTH.pack(len(text)) + text), *pieces]


def reading(most: int, head: int = MOST_HEAD) -> Generator[memoryview, None, Frame]:
    """Reads a frame without touching a pipe. Yields memory that must be filled before the next step, and returns the frame.

    Args:
        most: bytes that its arrays may have together.
        head: bytes that its head may have.

    Raises InvalidInput for bytes that are no frame, or a larger one, before anything is allocated for it.
    """
    length = bytearray(_LENGTH.size)
    yield memoryview(length)
    (size,) = _LENGTH.unpack(length)
    if size > head:
        raise InvalidInput(f"The head of a frame has at most {head:,} bytes here; this one says {size:,}.")
    text = bytearray(size)
    if size:
        yield memoryview(text)
    table = _table(bytes(text))
    listed = _listed(table.pop("arrays", None), most)
    arrays: dict[str, Array] = {}
    for name, kind, shape in listed:
        arrays[name] = np.empty(shape, kind)
        if arrays[name].size:
            yield _bytes(arrays[name])
    return Frame(table, arrays)


def _bytes(array: Array) -> memoryview:
    """The memory of an array in row-major order, to read and to fill."""
    return memoryview(array.reshape(-1).view(np.uint8).data)


def _table(text: bytes) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The head of a frame is JSON; found {shown(str(error))}.") from None
    if not isinstance(table, dict):
        raise InvalidInput(f"The head of a frame is a table; found {shown(table)}.")
    return table


def _listed(found: object, most: int) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    """Name, type and shape of each array of a head."""
    arrays: list[tuple[str, np.dtype[Any], tuple[int, ...]]] = []
    total = 0
    for entry in found if isinstance(found, list) else [None]:
        name, kind, shape = entry if isinstance(entry, list) and len(entry) == 3 else (None, None, None)
        known = any(name == earlier for earlier, _, _ in arrays)
        if known or not (isinstance(name, str) and isinstance(kind, str) and _TYPE.fullmatch(kind) and _is_shape(shape)):
            raise InvalidInput(f"A frame lists [name, type, shape] of its arrays, each name once; found {shown(entry)}.")
        try:
            dtype: np.dtype[Any] = np.dtype(kind)
        except TypeError:
            raise InvalidInput(f"A frame holds arrays of numbers; found the type {shown(kind)}.") from None
        total += dtype.itemsize * prod(shape)
        if total > most:
            raise InvalidInput(f"At most {most:,} bytes of arrays were asked for; this frame says {total:,} or more.")
        arrays.append((name, dtype, tuple(shape)))
    return arrays


def _is_shape(found: object) -> TypeGuard[list[int]]:
    return isinstance(found, list) and len(found) <= 32 and all(type(n) is int and 0 <= n < 1 << 40 for n in found)


def read(descriptor: int, most: int = 1 << 62, file: bool = False) -> Frame | None:
    """The next frame of a pipe, however long it takes, or None at its end; or the frame at the beginning of a file.

    Args:
        descriptor: of the pipe or file.
        most: bytes that the frame's arrays may have together.
        file: whether it is a file. Its position is left alone, as other processes may share it.

    Raises InvalidInput if the end comes within a frame, and for what is no frame.
    """
    steps, at = reading(most), 0
    window = next(steps)
    while True:
        count = os.preadv(descriptor, [window], at) if file else os.readv(descriptor, [window])
        if not count and not at:
            return None
        if not count:
            raise InvalidInput("The data end within a frame.")
        at, window = at + count, window[count:]
        if not window:
            try:
                window = next(steps)
            except StopIteration as end:
                frame: Frame = end.value
                return frame


def write(descriptor: int, head: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a frame, however long it takes. Raises InvalidInput as `encode`."""
    for piece in encode(head, arrays):
        left = piece
        while left:
            left = left[os.write(descriptor, left) :]
