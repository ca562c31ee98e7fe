"""HKDF-SHA256."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.crypto import derive


def slow_derive(secret: bytes, info: bytes, size: int, salt: bytes) -> tuple[bytes, bytes]:
    """RFC 5869, sections 2.2 and 2.3: the extracted key and what it expands to."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    expanded = block = b""
    for counter in range(1, -(-size // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([counter]), "sha256")
        expanded += block
    return extracted, expanded[:size]


@pytest.mark.parametrize(
    ("secret", "salt", "info", "extracted", "expanded"),
    [
        (
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            b"\x0b" * 22,
            b"",
            b"",
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_the_vectors_of_rfc_5869(secret, salt, info, extracted, expanded):
    """Appendix A, cases 1 to 3. Two have a salt, which `derive` leaves empty: they hold the reference that the next test uses."""
    size = len(expanded) // 2
    assert slow_derive(secret, info, size, salt) == (bytes.fromhex(extracted), bytes.fromhex(expanded))
    if not salt:
        assert derive(secret, info, size).hex() == expanded


@given(st.binary(max_size=100), st.binary(max_size=200), st.integers(1, 200))
def test_it_is_the_reference_with_empty_salt(secret, info, size):
    assert derive(secret, info, size) == slow_derive(secret, info, size, b"")[1]


def test_the_largest_size():
    assert derive(b"s", b"i", 8160) == slow_derive(b"s", b"i", 8160, b"")[1]
    assert len(derive(b"s", b"i")) == 32


@pytest.mark.parametrize("size", [-1, 0, 8161])
def test_a_size_that_hkdf_cannot_give_is_refused(size):
    with pytest.raises(InvalidInput, match="8160"):
        derive(b"s", b"i", size)
