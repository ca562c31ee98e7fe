"""A self-made certificate, and clients that accept that one only."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import stat
import sys
import warnings
from hashlib import sha256

import pytest

from manent.core.errors import InvalidInput, NotAuthorized
from manent.network.trust.tls import pin_of, pinned_context, self_signed

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from tests.network.serving import listening, uvicorn_of  # noqa: E402


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"), ["127.0.0.1", "fl.example", "::1"])


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("other"), ["127.0.0.1"])


def get(origin, pin, asynchronous):
    if not asynchronous:
        with httpx.Client(verify=pinned_context(pin), trust_env=False) as client:
            return client.post(origin, content=b"secret update")

    async def inside():
        async with httpx.AsyncClient(verify=pinned_context(pin), trust_env=False) as client:
            return await client.post(origin, content=b"secret update")

    return asyncio.run(inside())


BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@BOTH
def test_a_client_connects_to_the_pinned_server(made, asynchronous):
    certificate, key, pin = made
    with uvicorn_of(hello, certificate, key) as origin:
        answer = get(origin, pin, asynchronous)
    assert (answer.status_code, answer.content) == (200, b"hello")


@BOTH
def test_another_server_is_refused_before_it_hears_a_byte(made, other, asynchronous):
    with listening(*other[:2]) as (origin, heard), pytest.raises(NotAuthorized, match="another certificate") as found:
        get(origin, made[2], asynchronous)
    assert heard in ([], [b""])
    assert made[2] in str(found.value)
    assert other[2] in str(found.value)


def test_it_is_heard_where_the_pin_fits(made):
    """So that silence in the test above says something."""
    with listening(*made[:2]) as (origin, heard), httpx.Client(verify=pinned_context(made[2]), timeout=0.5) as client:
        with pytest.raises(httpx.TimeoutException):
            client.post(origin, content=b"update")
        client.close()
    assert b"update" in heard[0]


@BOTH
def test_a_server_with_an_older_tls_is_refused(made, asynchronous):
    with listening(*made[:2], newest=ssl.TLSVersion.TLSv1_2) as (origin, heard), pytest.raises(httpx.ConnectError):
        get(origin, made[2], asynchronous)
    assert heard == []


def test_nothing_is_written_before_the_handshake_was_checked(made, other):
    """OpenSSL shakes hands by itself at the first write; with the wrong server that must not send either."""
    context = pinned_context(made[2])
    with listening(*other[:2]) as (origin, heard):
        port = int(origin.rsplit(":", 1)[1])
        for method in ("write", "send", "sendall"):
            with socket.create_connection(("127.0.0.1", port)) as plain:
                secured = context.wrap_socket(plain, do_handshake_on_connect=False)
                with secured, pytest.raises(NotAuthorized, match="shake hands"):
                    getattr(secured, method)(b"secret")
        wrapped = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
        with pytest.raises(NotAuthorized, match="shake hands"):
            wrapped.write(b"secret")
    assert not any(heard)


def test_a_refused_connection_is_closed(made, other, monkeypatch):
    """By itself, not when its remains are collected."""
    gc.collect()  # what other tests have left
    left = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    with warnings.catch_warnings(), listening(*other[:2]) as (origin, _):
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(3):
            with pytest.raises(NotAuthorized):
                get(origin, made[2], False)
        gc.collect()
    assert [str(one.exc_value) for one in left if "socket" in str(one.exc_value).lower()] == []


def test_two_pins_at_once_do_not_mix(made, other):
    contexts = [pinned_context(pin) for pin in (made[2], other[2])]
    for given, fits in ((made, 0), (other, 1)):
        with uvicorn_of(hello, *given[:2]) as origin:
            for number, context in enumerate(contexts):
                with httpx.Client(verify=context, trust_env=False) as client:
                    if number == fits:
                        assert client.get(origin).content == b"hello"
                    else:
                        with pytest.raises(NotAuthorized):
                            client.get(origin)


def test_the_certificate_is_kept_and_the_key_is_for_its_owner(made):
    certificate, key, pin = made
    assert self_signed(certificate.parent, ["elsewhere.example"]) == made
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert pin == sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest() == pin_of(certificate)


def test_it_names_its_hosts(made):
    context = ssl.create_default_context(cafile=made[0])
    with uvicorn_of(hello, *made[:2]) as origin, httpx.Client(verify=context, trust_env=False) as client:
        assert client.get(origin).content == b"hello"


def test_a_key_without_its_certificate_is_of_an_interrupted_start(tmp_path):
    certificate, key, _ = self_signed(tmp_path, ["a.example"])
    before = key.read_bytes()
    certificate.unlink()
    assert self_signed(tmp_path, ["a.example"])[:2] == (certificate, key)
    assert key.read_bytes() == before


def test_files_that_do_not_fit(tmp_path, other):
    certificate, key, _ = self_signed(tmp_path, ["a.example"])
    whole = key.read_bytes()
    for altered in (other[1].read_bytes(), whole[:100], b""):
        key.write_bytes(altered)
        with pytest.raises(InvalidInput, match="not a certificate and its key"):
            self_signed(tmp_path, ["a.example"])
    key.unlink()
    with pytest.raises(InvalidInput, match="not a certificate and its key"):
        self_signed(tmp_path, ["a.example"])
    certificate.unlink()
    key.write_bytes(b"no key")
    with pytest.raises(InvalidInput, match="no elliptic-curve key"):
        self_signed(tmp_path, ["a.example"])


@pytest.mark.parametrize("hosts", [[], ["å.example"]])
def test_hosts_that_are_refused(tmp_path, hosts):
    with pytest.raises(InvalidInput):
        self_signed(tmp_path, hosts)


@pytest.mark.parametrize("pin", ["", "ab" * 31, "AB" * 32, None, "ab" * 31 + "é "])
def test_pins_that_are_refused(pin):
    with pytest.raises(InvalidInput, match="pin"):
        pinned_context(pin)


def test_a_file_without_a_certificate_has_no_pin(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="no certificate"):
        pin_of(tmp_path / "x")
    with pytest.raises(InvalidInput, match="Cannot read"):
        pin_of(tmp_path / "none")
