"""Ed25519 identities."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.crypto import InsecureTestRNG, SigningKey, SystemRandom, verify

KEY = SigningKey(bytes(range(32)))
FIELD = 2**255 - 19
ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_the_vectors_of_rfc_8032(seed, public, message, signature):
    """Section 7.1, tests 1 to 3."""
    key = SigningKey(bytes.fromhex(seed))
    assert key.public.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert verify(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))


@given(st.binary(max_size=100), st.integers(0, 511), st.integers(0, 255))
def test_a_changed_signature_key_or_message_is_refused(message, bit, other):
    signature = KEY.sign(message)
    flipped = (int.from_bytes(signature, "little") ^ (1 << bit)).to_bytes(64, "little")
    public = (int.from_bytes(KEY.public, "little") ^ (1 << bit // 2)).to_bytes(32, "little")
    assert verify(KEY.public, message, signature)
    assert not verify(KEY.public, message, flipped)
    assert not verify(public, message, signature)
    assert not verify(KEY.public, message + bytes([other]), signature)


@given(st.binary(max_size=70), st.binary(max_size=8), st.binary(max_size=130))
def test_bytes_that_are_no_key_or_signature_are_false(public, message, signature):
    assert verify(public, message, signature) is False
    assert verify(KEY.public, message, signature) is False
    assert verify(public, message, KEY.sign(message)) is False


@pytest.mark.parametrize("y", [0, 1, FIELD - 1, FIELD, FIELD + 1, ORDER_8, FIELD - ORDER_8])
@pytest.mark.parametrize("sign", [0, 1])
def test_a_key_of_low_order_signs_nothing(y, sign):
    """With such a key, and the neutral element as the signature's point, no secret is needed for one message in eight or more."""
    public, forged = (y | sign << 255).to_bytes(32, "little"), bytes([1, *bytes(63)])
    assert not any(verify(public, bytes([k]), forged) for k in range(100))


def test_the_constant_of_order_8_has_order_8():
    """Doubling it twice on the Edwards curve of RFC 8032 gives the point of order 2, (0, -1)."""
    d = -121665 * pow(121666, -1, FIELD) % FIELD
    square = (ORDER_8**2 - 1) * pow(d * ORDER_8**2 + 1, -1, FIELD) % FIELD
    x = pow(square, (FIELD + 3) // 8, FIELD)
    x = x if x * x % FIELD == square else x * pow(2, (FIELD - 1) // 4, FIELD) % FIELD
    assert x * x % FIELD == square
    point = (x, ORDER_8)
    for _ in range(2):
        a, b = point
        cross = d * a * a * b * b
        point = (2 * a * b * pow(1 + cross, -1, FIELD) % FIELD, (b * b + a * a) * pow(1 - cross, -1, FIELD) % FIELD)
    assert point == (0, FIELD - 1)


def test_generated_keys_differ_and_come_from_the_source():
    random = SystemRandom()
    assert SigningKey.generate(random).public != SigningKey.generate(random).public
    assert SigningKey.generate(InsecureTestRNG(1)).seed == InsecureTestRNG(1).bytes(32)


def test_its_text_shows_the_public_half_only():
    assert KEY.public.hex() in repr(KEY)
    assert KEY.seed.hex() not in repr(KEY) + str(KEY)
    assert repr(bytes(range(8)))[2:-1] not in repr(KEY)
    assert SigningKey(KEY.seed).public == KEY.public


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33), "x" * 32])
def test_a_seed_has_32_bytes(seed):
    with pytest.raises(InvalidInput, match="32 bytes"):
        SigningKey(seed)


def test_it_cannot_be_changed_or_pickled():
    with pytest.raises(AttributeError):
        KEY.public = bytes(32)
    with pytest.raises(AttributeError):
        KEY.note = "x"
    with pytest.raises(TypeError):
        pickle.dumps(KEY)
