"""AES-256-GCM under keys that are used once."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.crypto import seal, unseal

KEYS = st.binary(min_size=32, max_size=32)


def encrypted(key: bytes, block: int) -> int:
    cipher = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    return int.from_bytes(cipher.update(block.to_bytes(16, "big")), "big")


def times(a: int, b: int) -> int:
    """SP 800-38D, section 6.3: the product in GF(2^128), where bit 0 is the leftmost."""
    product = 0
    for at in range(127, -1, -1):
        product ^= b if a >> at & 1 else 0
        b = b >> 1 ^ (0xE1 << 120 if b & 1 else 0)
    return product


def slow_seal(key: bytes, nonce: bytes, message: bytes, associated: bytes) -> bytes:
    """SP 800-38D, section 7.1, block by block."""
    start = int.from_bytes(nonce, "big") << 32 | 1
    blocks = [message[at : at + 16] for at in range(0, len(message), 16)]
    stream = (encrypted(key, start + 1 + turn).to_bytes(16, "big") for turn in range(len(blocks)))
    sealed = b"".join(bytes(a ^ b for a, b in zip(block, pad, strict=False)) for block, pad in zip(blocks, stream, strict=True))
    hashed, h = 0, encrypted(key, 0)
    for part in (associated, sealed, (8 * len(associated)).to_bytes(8, "big") + (8 * len(sealed)).to_bytes(8, "big")):
        for at in range(0, len(part), 16):
            hashed = times(hashed ^ int.from_bytes(part[at : at + 16].ljust(16, b"\0"), "big"), h)
    return sealed + (hashed ^ encrypted(key, start)).to_bytes(16, "big")


@pytest.mark.parametrize(
    ("message", "sealed"),
    [
        (b"", "530f8afbc74536b9a963b4f1c4cb738b"),
        (bytes(16), "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"),
    ],
)
def test_the_vectors_of_a_zero_key_and_nonce(message, sealed):
    """McGrew and Viega, The Galois/Counter Mode of Operation, cases 13 and 14."""
    assert seal(bytes(32), message, b"").hex() == sealed
    assert unseal(bytes(32), bytes.fromhex(sealed), b"") == message


def test_a_vector_with_associated_data_holds_the_reference():
    """Their case 16, whose nonce is not zero."""
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308") * 2
    message = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    associated = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    assert slow_seal(key, bytes.fromhex("cafebabefacedbaddecaf888"), message, associated).hex() == (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )


@given(KEYS, st.binary(max_size=70), st.binary(max_size=40))
def test_it_is_the_reference_with_a_zero_nonce(key, message, associated):
    sealed = seal(key, message, associated)
    assert sealed == slow_seal(key, bytes(12), message, associated)
    assert unseal(key, sealed, associated) == message


@given(KEYS, st.binary(max_size=40), st.binary(max_size=40), st.data())
def test_nothing_altered_opens(key, message, associated, data):
    sealed = seal(key, message, associated)
    at = data.draw(st.integers(0, 8 * len(sealed) - 1))
    flipped = (int.from_bytes(sealed, "little") ^ 1 << at).to_bytes(len(sealed), "little")
    other = bytes([key[0] ^ 1]) + key[1:]
    for attempt in (
        (key, flipped, associated),
        (other, sealed, associated),
        (key, sealed, associated + b"x"),
        (key, sealed[: at // 8], associated),
        (key, sealed + b"\0", associated),
    ):
        with pytest.raises(ProtocolAbort, match="does not open"):
            unseal(*attempt)


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(24), bytes(31), bytes(33)])
def test_a_key_has_32_bytes(key):
    with pytest.raises(InvalidInput, match="32 bytes"):
        seal(key, b"", b"")
    with pytest.raises(InvalidInput, match="32 bytes"):
        unseal(key, bytes(16), b"")


def test_what_is_too_long_is_refused():
    huge = np.zeros(2**31, np.uint8).data  # never touched, so it takes no memory
    with pytest.raises(InvalidInput, match="2\\^31"):
        seal(bytes(32), huge, b"")
