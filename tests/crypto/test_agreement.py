"""X25519 and ML-KEM-768."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.crypto import AgreementKey, EncapsulationKey, encapsulate

FIELD = 2**255 - 19
# One record (count 0) of the published known-answer tests of ML-KEM-768 that the vectors of pyca/cryptography carry
# (kat_MLKEM_768.rsp), confirmed with kyber-py 1.2.0, which shares no code with the library under test.
# ct_n is a ciphertext that was tampered with, and ss_n the secret that implicit rejection must give.
RECORD = {name: bytes.fromhex(text) for name, text in json.loads(Path(__file__).with_name("ml_kem_768.json").read_text()).items()}
RECEIVER = EncapsulationKey(RECORD["d"] + RECORD["z"])


def encoded(number):
    return number.to_bytes(32, "little")


@pytest.mark.parametrize(
    ("scalar", "point", "secret"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_the_vectors_of_rfc_7748(scalar, point, secret):
    """Section 5.2; the top bit of the second point is set, and ignored."""
    assert AgreementKey(bytes.fromhex(scalar)).agree(bytes.fromhex(point)).hex() == secret


def test_a_thousand_agreements_in_a_row():
    """RFC 7748, section 5.2."""
    k = u = encoded(9)
    for turn in range(1000):
        k, u = AgreementKey(k).agree(u), k
        if turn == 0:
            assert k.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_bob_and_alice():
    """RFC 7748, section 6.1: Bob's side."""
    bob = AgreementKey(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    alice = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert bob.agree(alice).hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
@settings(max_examples=30)
def test_both_sides_agree(a, b):
    first, second = AgreementKey(a), AgreementKey(b)
    if first.public != second.public:
        assert first.agree(second.public) == second.agree(first.public)


# The points of order 1, 2, 4 and 8 on the curve and its twist; then the same, not reduced.
ORDER_8 = [
    int.from_bytes(bytes.fromhex(text), "little")
    for text in (
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    )
]
LOW_ORDER = [0, 1, FIELD - 1, *ORDER_8, FIELD, FIELD + 1]


@pytest.mark.parametrize("point", LOW_ORDER)
@pytest.mark.parametrize("top", [0, 1])
def test_a_point_of_low_order_is_refused(point, top):
    for seed in (bytes(range(32)), b"\xff" * 32):
        with pytest.raises(ProtocolAbort, match="low order"):
            AgreementKey(seed).agree(encoded(point | top << 255))


@pytest.mark.parametrize("point", ORDER_8)
def test_the_points_of_order_8_are_doubled_to_one_of_order_4(point):
    """RFC 7748's curve: x is doubled to (x^2 - 1)^2 / 4x(x^2 + 486662x + 1); order 4 has x = 1 or -1, then comes x = 0."""
    doubled = (point**2 - 1) ** 2 * pow(4 * point * (point**2 + 486662 * point + 1), -1, FIELD) % FIELD
    assert doubled in (1, FIELD - 1)


def test_its_own_key_is_refused_however_it_is_written():
    key = AgreementKey(bytes(range(32)))
    own = int.from_bytes(key.public, "little")
    for twin in (own, own | 1 << 255):
        with pytest.raises(ProtocolAbort, match="own"):
            key.agree(encoded(twin))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_lengths_are_checked(length):
    with pytest.raises(ProtocolAbort, match="32 bytes"):
        AgreementKey(bytes(32)).agree(bytes(length))
    with pytest.raises(InvalidInput, match="32 bytes"):
        AgreementKey(bytes(length))
    with pytest.raises(InvalidInput, match="64 bytes"):
        EncapsulationKey(bytes(length) if length != 64 else bytes(65))
    with pytest.raises(ProtocolAbort, match="1088 bytes"):
        RECEIVER.decapsulate(bytes(length))
    with pytest.raises(ProtocolAbort, match="1184 bytes"):
        encapsulate(bytes(length))


def test_the_known_answers_of_ml_kem_768():
    assert RECEIVER.public == RECORD["pk"]
    assert RECEIVER.decapsulate(RECORD["ct"]) == RECORD["ss"]
    assert RECEIVER.decapsulate(RECORD["ct_n"]) == RECORD["ss_n"]


def test_what_is_encapsulated_is_decapsulated():
    (first, sent), (second, also_sent) = encapsulate(RECEIVER.public), encapsulate(RECEIVER.public)
    assert len(first) == 32
    assert len(sent) == 1088
    assert RECEIVER.decapsulate(sent) == first != second == RECEIVER.decapsulate(also_sent)


@pytest.mark.parametrize("at", [0, 500, 1087])
def test_an_altered_ciphertext_gives_another_secret(at):
    secret, sent = encapsulate(RECEIVER.public)
    altered = sent[:at] + bytes([sent[at] ^ 1]) + sent[at + 1 :]
    assert RECEIVER.decapsulate(altered) != secret
    assert RECEIVER.decapsulate(altered) == RECEIVER.decapsulate(altered)


def test_a_key_that_is_not_reduced_is_refused():
    """FIPS 203, section 7.2: twelve bits may not encode 3329 or more."""
    with pytest.raises(ProtocolAbort, match="well formed"):
        encapsulate(b"\xff\xff\xff" + RECEIVER.public[3:])


def test_no_text_shows_a_secret():
    assert RECORD["d"].hex() not in repr(RECEIVER)
    with pytest.raises(AttributeError):
        RECEIVER.public = b""
