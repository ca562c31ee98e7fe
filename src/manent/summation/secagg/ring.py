"""Vectors modulo 2**b: lanes, packing on the wire, and back to signed numbers."""

from __future__ import annotations

import math

import numpy as np

from manent.core.errors import ProtocolAbort
from manent.core.vectors import Array

_RUN = 1 << 15  # groups of eight numbers that are added at a time, few enough to stay in the processor's cache
_BEYOND = 9  # bytes that a view of one number covers, at most


def lane(bits: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest unsigned type that holds `bits` bits; sums in it wrap modulo its own width, a multiple of 2**bits."""
    return np.dtype(np.uint16 if bits <= 16 else np.uint32 if bits <= 32 else np.uint64)


def bits_for(clients: int, largest: float) -> int:
    """The fewest bits b with which the sum of `clients` whole numbers of size up to `largest` cannot wrap."""
    most = clients * max(math.ceil(largest), 1)
    return 1 + most.bit_length()  # for some sums above 2**50 a floating-point logarithm is one too small


def lift(values: Array, bits: int) -> Array:
    """int64[d] as lanes [d], modulo 2**bits up to the lane's width."""
    return values.astype(lane(bits))


def centre(total: Array, bits: int) -> Array:
    """Lanes [d] as int64[d] in [-2**(b-1), 2**(b-1)): two's complement of b bits."""
    found = total.astype(np.int64)
    found &= (1 << bits) - 1
    found ^= 1 << (bits - 1)
    found -= 1 << (bits - 1)
    return found


def packed_size(size: int, bits: int) -> int:
    """How many bytes `size` numbers of `bits` bits take."""
    return -(-size * bits // 8)


def pack(values: Array, bits: int) -> bytes:
    """Lanes [d] modulo 2**bits, one after another without gaps, least significant bit first, padded with zeros to a byte."""
    lanes = values.dtype.newbyteorder("<")
    width = 8 * lanes.itemsize
    if bits == width:
        return values.astype(lanes, copy=False).tobytes()
    runs = -(-len(values) // width)  # `width` numbers of b bits fill exactly b words
    numbers = np.zeros((width, runs), lanes)
    whole = len(values) // width
    numbers[:, :whole] = values[: whole * width].reshape(whole, width).T
    numbers[: len(values) - whole * width, whole:] = values[whole * width :, None]
    numbers &= lanes.type((1 << bits) - 1)
    words = np.zeros((bits, runs), lanes)
    for i in range(width):
        word, shift = divmod(i * bits, width)
        words[word] |= numbers[i] << lanes.type(shift)
        if shift + bits > width:
            words[word + 1] |= numbers[i] >> lanes.type(width - shift)
    return words.T.tobytes()[: packed_size(len(values), bits)]


def check_packed(data: bytes | memoryview, size: int, bits: int) -> None:
    """Raises ProtocolAbort for another length, or padding that is not zero."""
    if len(data) != packed_size(size, bits):
        raise ProtocolAbort(f"An upload of {size} numbers of {bits} bits has {packed_size(size, bits)} bytes; found {len(data)}.")
    if size * bits % 8 and data[-1] >> (size * bits % 8):
        raise ProtocolAbort("The padding of an upload is not zero.")


class PackedSum:
    """The sum of packed vectors, added as they come. It holds one array of lanes, and a small one.

    Eight numbers of b bits take b bytes. So every eighth number begins at the same bit of its byte, b bytes after the one before,
    and one strided view and one shift read them all. Number 8 i + j is kept at [j, i]. The bits that a view reads above a number
    land above bit b of the sum, and are dropped in the end.
    """

    def __init__(self, size: int, bits: int) -> None:
        self._size, self._bits = size, bits
        self._lanes = np.zeros((8, -(-size // 8)), lane(bits))
        self._aligned = np.empty(min(_RUN, self._lanes.shape[1]), np.uint64)

    def add(self, data: bytes | memoryview) -> None:
        """Add a packed vector. Raises ProtocolAbort where `check_packed` does."""
        check_packed(data, self._size, self._bits)
        groups = self._lanes.shape[1]
        safe = max(0, (len(data) - _BEYOND) // self._bits)
        if safe:
            self._add(data, 0, safe)
        self._add(bytes(data[safe * self._bits :]) + bytes(_BEYOND + self._bits), safe, groups - safe)

    def _add(self, data: bytes | memoryview, first: int, count: int) -> None:
        """Add groups of eight numbers from data that has at least _BEYOND bytes after the last group."""
        for start in range(0, count, _RUN):
            run = min(_RUN, count - start)
            for j, row in enumerate(self._lanes[:, first + start : first + start + run]):
                offset, shift = divmod(j * self._bits, 8)
                offset += start * self._bits
                view = lane(min(shift + self._bits, 64)).newbyteorder("<")
                window = self._aligned.view(view)[:run]  # ufuncs are slow on unaligned data; fresh memory is slow too
                np.copyto(window, np.ndarray((run,), view, data, offset, (self._bits,)))
                window >>= view.type(shift)
                row += window.astype(row.dtype, copy=False)
                if shift + self._bits > 64:
                    rest = np.ndarray((run,), np.uint8, data, offset + 8, (self._bits,))
                    row += rest.astype(np.uint64) << np.uint64(64 - shift)

    def total(self) -> Array:
        """Lanes [d], modulo 2**bits up to the lane's width; a copy."""
        return self._lanes.T.flatten()[: self._size]


def unpack(data: bytes | memoryview, size: int, bits: int) -> Array:
    """The lanes [size] of packed numbers. Raises ProtocolAbort where `check_packed` does."""
    packed = PackedSum(size, bits)
    packed.add(data)
    values = packed.total()
    values &= lane(bits).type((1 << bits) - 1)
    return values
