"""Vectors modulo 2**b: lanes, packing on the wire, and back to signed numbers."""

from __future__ import annotations

import math

import numpy as np

from manent.core.errors import ProtocolAbort
from manent.core.vectors import Array


def lane(bits: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest unsigned type that holds `bits` bits; sums in it wrap modulo its own width, a multiple of 2**bits."""
    return np.dtype(np.uint16 if bits <= 16 else np.uint32 if bits <= 32 else np.uint64)


def bits_for(clients: int, largest: float) -> int:
    """The fewest bits b with which the sum of `clients` whole numbers of size up to `largest` cannot wrap."""
    return 1 + math.ceil(math.log2(clients * max(math.ceil(largest), 1) + 1))


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
    """Bytes of `size` numbers of `bits` bits."""
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


def check_packed(data: bytes, size: int, bits: int) -> None:
    """Raises ProtocolAbort for another length, or padding that is not zero."""
    if len(data) != packed_size(size, bits):
        raise ProtocolAbort(f"An upload of {size} numbers of {bits} bits has {packed_size(size, bits)} bytes; found {len(data)}.")
    if size * bits % 8 and data[-1] >> (size * bits % 8):
        raise ProtocolAbort("The padding of an upload is not zero.")


def unpack(data: bytes, size: int, bits: int) -> Array:
    """The lanes [size] of packed numbers. Raises ProtocolAbort where `check_packed` does."""
    check_packed(data, size, bits)
    lanes = lane(bits).newbyteorder("<")
    width = 8 * lanes.itemsize
    if bits == width:
        return np.frombuffer(data, lanes).astype(lane(bits))
    runs = -(-size // width)
    padded = np.zeros(runs * bits * lanes.itemsize, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    words = np.ascontiguousarray(padded.view(lanes).reshape(runs, bits).T)
    values = np.empty((width, runs), lane(bits))
    for i in range(width):
        word, shift = divmod(i * bits, width)
        values[i] = words[word] >> lanes.type(shift)
        if shift + bits > width:
            values[i] |= words[word + 1] << lanes.type(width - shift)
    values &= lane(bits).type((1 << bits) - 1)
    return values.T.reshape(-1)[:size].copy()
