"""Identities in files."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.crypto import verify
from manent.network.trust.identity import Identity, check_name, read_file, replace_file


def test_a_created_identity_is_the_one_that_is_loaded(tmp_path):
    path = tmp_path / "new" / "site.key"
    made = Identity.create(path, "karolinska")
    loaded = Identity.load(path)
    assert (loaded.name, loaded.public_hex) == ("karolinska", made.public_hex)
    assert verify(bytes.fromhex(made.public_hex), b"m", loaded.signing_key.sign(b"m"))
    assert Identity.create(tmp_path / "other.key", "karolinska").public_hex != made.public_hex


def test_its_file_is_for_its_owner_only(tmp_path):
    before = os.umask(0)
    try:
        Identity.create(tmp_path / "site.key", "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "site.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_file_that_others_reach_is_refused(tmp_path, mode):
    Identity.create(tmp_path / "site.key", "a")
    (tmp_path / "site.key").chmod(mode)
    with pytest.raises(InvalidInput, match="chmod 600"):
        Identity.load(tmp_path / "site.key")


def test_a_key_is_never_overwritten(tmp_path):
    made = Identity.create(tmp_path / "site.key", "a")
    with pytest.raises(InvalidInput, match="not overwritten"):
        Identity.create(tmp_path / "site.key", "b")
    assert Identity.load(tmp_path / "site.key").public_hex == made.public_hex


def test_its_text_and_its_errors_do_not_show_the_secret(tmp_path):
    path = tmp_path / "site.key"
    made = Identity.create(path, "a")
    seed = made.signing_key.seed.hex()
    assert seed not in repr(made) + str(made)
    path.write_bytes(path.read_bytes().replace(seed.encode(), seed[:-2].encode() + b"GG"))
    with pytest.raises(InvalidInput) as found:
        Identity.load(path)
    assert seed[:-2] not in str(found.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.integers(0, 119).map(lambda cut: -cut))
def test_other_bytes_are_no_identity(tmp_path, data):
    path = tmp_path / "site.key"
    if isinstance(data, int):
        path.unlink(missing_ok=True)
        Identity.create(path, "a")
        data = path.read_bytes()[: data - 2]
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(InvalidInput):
        Identity.load(path)


def test_a_missing_a_large_and_an_impossible_file(tmp_path):
    with pytest.raises(InvalidInput, match="Cannot read"):
        Identity.load(tmp_path / "none")
    (tmp_path / "large").write_bytes(bytes(1 << 17))
    with pytest.raises(InvalidInput, match="larger"):
        Identity.load(tmp_path / "large")
    with pytest.raises(InvalidInput, match="Cannot read"):
        Identity.load(tmp_path)
    with pytest.raises(InvalidInput, match="Cannot write"):
        Identity.create(tmp_path / "large" / "site.key", "a")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "a\\b", "a b", "-a", "a\n", "\x1b[1m", "å", "a" * 65, "a\x00", None, 3, b"a"]
)
def test_names_that_are_refused(name):
    with pytest.raises(InvalidInput, match="name"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "0", "St.-Goran_2", "a" * 64])
def test_names_that_are_taken(name):
    check_name(name)


def test_a_replaced_file_is_never_a_part_of_one(tmp_path, monkeypatch):
    path = tmp_path / "book"
    replace_file(path, b"old")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(InvalidInput, match="No space"):
        replace_file(path, b"new")
    assert read_file(path, 10) == b"old"
