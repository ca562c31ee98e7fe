"""Masks."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import example, given, settings
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.crypto import Masker, SystemRandom
from tests.statistics import uniform_ok

LANES = [np.uint16, np.uint32, np.uint64]
CIPHERS = ["aes-256-ctr", "chacha20"]
CHUNK = 1 << 17  # bytes that are masked at a time
KEY = bytes(range(32))
ZERO = bytes(32)


def counter_mode(key: bytes, start: int, length: int) -> bytes:
    """SP 800-38A, section 6.5: the blocks of successive counters, each encrypted by itself."""
    cipher = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    return b"".join(cipher.update((start + k).to_bytes(16, "big")) for k in range(-(-length // 16)))[:length]


def chacha20(key: bytes, start: int, length: int) -> bytes:
    """RFC 8439, section 2.3, with a zero nonce; 64 bytes a counter."""
    state = np.array([0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *np.frombuffer(key, "<u4"), 0, 0, 0, 0], np.uint32)
    stream = b""
    for counter in range(start, start - (-length // 64)):
        state[12] = counter
        x = [int(word) for word in state]
        for turn in range(20):
            shift = (5, 10, 15) if turn % 2 else (4, 8, 12)
            for a in range(4):
                b, c, d = (4 * k + (a + s) % 4 if turn % 2 else a + s for k, s in zip((1, 2, 3), shift, strict=True))
                for p, q, r, left in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    x[p] = (x[p] + x[q]) % 2**32
                    x[r] ^= x[p]
                    x[r] = (x[r] << left | x[r] >> 32 - left) % 2**32
        stream += np.array([(a + int(b)) % 2**32 for a, b in zip(x, state, strict=True)], "<u4").tobytes()
    return stream[:length]


def whole(key: bytes, cipher: str, length: int) -> bytes:
    """The keystream by one call of a fresh cipher."""
    start = bytes(16)
    made = (
        Cipher(algorithms.AES256(key), modes.CTR(start))
        if cipher == "aes-256-ctr"
        else Cipher(algorithms.ChaCha20(key, start), None)
    )
    return made.encryptor().update(bytes(length))


def mask(dtype, cipher, key, size):
    total = np.zeros(size, dtype)
    Masker(dtype, cipher).add(total, key)
    return total


def test_the_counter_mode_of_sp_800_38a():
    """F.5.5 has another first counter than a mask, so it holds the reference to which masks are compared."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    stream = counter_mode(key, int.from_bytes(bytes(range(0xF0, 0x100)), "big"), 64)
    assert bytes(a ^ b for a, b in zip(plain, stream, strict=True)).hex() == (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )


@pytest.mark.parametrize(
    ("key", "block", "stream"),
    [
        (
            ZERO,
            0,
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
        ),
        (
            ZERO,
            1,
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
        ),
        (
            bytes([*[0] * 31, 1]),
            1,
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
        ),
        (
            bytes([0, 255, *[0] * 30]),
            2,
            "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
        ),
    ],
)
def test_the_keystream_of_rfc_8439(key, block, stream):
    """Appendix A.1, cases 1 to 4."""
    assert chacha20(key, block, 64).hex() == stream
    assert mask(np.uint16, "chacha20", key, 96).tobytes()[64 * block :][:64].hex() == stream


def test_the_first_block_under_a_zero_key():
    """AES-256 of the zero block under the zero key."""
    assert mask(np.uint64, "aes-256-ctr", ZERO, 2).tobytes().hex() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize(("cipher", "reference"), [("aes-256-ctr", counter_mode), ("chacha20", chacha20)])
def test_a_mask_is_the_reference(cipher, reference):
    for dtype in LANES:
        expected = np.frombuffer(reference(KEY, 0, 480), np.dtype(dtype).newbyteorder("<"))
        assert mask(dtype, cipher, KEY, expected.size).tolist() == expected.tolist()


@pytest.mark.skipif(sys.byteorder == "big", reason="the bytes of the vector are compared")
@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("dtype", LANES)
@pytest.mark.parametrize("bytes_off", [-8, 0, 8, CHUNK + 8])
def test_a_long_mask_is_one_stream(dtype, cipher, bytes_off):
    size = (CHUNK + bytes_off) // np.dtype(dtype).itemsize
    assert mask(dtype, cipher, KEY, size).tobytes() == whole(KEY, cipher, CHUNK + bytes_off)


@given(
    st.sampled_from(LANES), st.sampled_from(CIPHERS), st.integers(0, 300), st.binary(min_size=32, max_size=32), st.integers(0, 99)
)
@example(np.uint16, "aes-256-ctr", 2 * CHUNK + 3, KEY, 0)
@example(np.uint64, "chacha20", CHUNK // 8 + 1, KEY, 0)
@settings(max_examples=60, deadline=None)
def test_adding_is_modular_and_subtracting_undoes_it(dtype, cipher, size, key, seed):
    start = np.random.Generator(np.random.Philox(seed)).integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True)
    total, masker = start.copy(), Masker(dtype, cipher)
    masker.add(total, key)
    stream = np.frombuffer(whole(key, cipher, start.nbytes), np.dtype(dtype).newbyteorder("<"))
    modulus = 2 ** (8 * start.itemsize)
    sample = slice(None, None, max(1, size // 50))
    assert total[sample].tolist() == [(int(a) + int(b)) % modulus for a, b in zip(start[sample], stream[sample], strict=True)]
    masker.subtract(total, bytes(31) + b"\1")
    masker.add(total, bytes(31) + b"\1")
    masker.subtract(total, key)
    assert total.tolist() == start.tolist()


def test_a_part_of_a_vector_can_be_masked():
    total = np.zeros(10, np.uint32)
    Masker(np.uint32).add(total[3:7], KEY)
    assert total.tolist() == [0, 0, 0, *mask(np.uint32, "aes-256-ctr", KEY, 4), 0, 0, 0]


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("dtype", LANES)
def test_every_byte_of_a_lane_is_uniform(dtype, cipher):
    """Chi-square over the 256 values of each byte of 2^17 lanes, under a fresh key; false alarm 1e-11 a byte, 28 bytes in all."""
    drawn = mask(dtype, cipher, SystemRandom().bytes(32), 1 << 17)
    for byte in range(drawn.itemsize):
        assert uniform_ok(np.bincount((drawn >> (8 * byte) & 255).astype(int), minlength=256), alarm=1e-11)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_every_value_of_a_lane_occurs(cipher):
    """All 2^16 values, top and bottom included, in 2^22 lanes: one is missing by chance with probability 2^16 e^-64 < 1e-22."""
    assert np.bincount(mask(np.uint16, cipher, SystemRandom().bytes(32), 1 << 22), minlength=1 << 16).min() > 0


def test_threads_with_their_own_masker_give_the_same():
    keys = [bytes([k] * 32) for k in range(16)]
    meet = threading.Barrier(4)

    def work(mine):
        masker, total = Masker(np.uint32), np.zeros(100_000, np.uint32)
        meet.wait(10)
        for key in mine:
            masker.add(total, key)
        return total

    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(work, [keys[k::4] for k in range(4)]))
    one = Masker(np.uint32)
    total = sum(parts, np.zeros(100_000, np.uint32))
    for key in keys:
        one.subtract(total, key)
    assert not total.any()


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32, ">u4", None, "text"])
def test_other_lanes_are_refused(dtype):
    with pytest.raises(InvalidInput, match="uint16, uint32 or uint64"):
        Masker(dtype)


def test_an_unknown_cipher_is_refused():
    with pytest.raises(InvalidInput, match="aes-256-ctr, chacha20"):
        Masker(np.uint32, "rot13")


@pytest.mark.parametrize(
    "total",
    [
        np.zeros(4, np.uint64),
        np.zeros(4, np.int32),
        np.zeros((2, 2), np.uint32),
        np.zeros(8, np.uint32)[::2],
        np.frombuffer(bytes(16), np.uint32),
        np.zeros(4, ">u4"),
    ],
)
def test_other_vectors_are_refused(total):
    for change in (Masker(np.uint32).add, Masker(np.uint32).subtract):
        with pytest.raises(InvalidInput, match="contiguous uint32 vector"):
            change(total, KEY)
    assert not total.any()


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(31), bytes(33)])
def test_a_key_has_32_bytes(key):
    with pytest.raises(InvalidInput, match="32 bytes"):
        Masker(np.uint32).add(np.zeros(1, np.uint32), key)
