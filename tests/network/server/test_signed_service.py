"""Signed requests over real TLS, from a real client to a real server that streams what it gets."""

from __future__ import annotations

import time
from hashlib import sha256

import pytest

from manent.core.errors import NotAuthorized
from manent.crypto import SigningKey
from manent.network.trust.tls import pinned_context, self_signed
from manent.storage import MemoryStore

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytest.importorskip("http_message_signatures")

from manent.network.trust.signing import Verifier, received, sign_request  # noqa: E402
from tests.network.serving import uvicorn_of  # noqa: E402

SITE, STRANGER = SigningKey(bytes([1] * 32)), SigningKey(bytes([2] * 32))


class Service:
    """Hashes what it receives as it comes, and counts it only when the signature says so."""

    def __init__(self):
        self.verifier = Verifier({SITE.public.hex(): SITE.public}.get, MemoryStore())
        self.origins = ()
        self.counted = []

    async def __call__(self, scope, receive, send):
        status, told = 200, b""
        try:
            signed = self.verifier.examine(*received(scope, self.origins))
            self.verifier.spend(signed)
            found, more = sha256(), True
            while more:
                message = await receive()
                found.update(message.get("body", b""))
                more = message.get("more_body", False)
            signed.check_body(found.digest())
            self.counted.append((scope["raw_path"], signed.keyid, found.digest()))
        except NotAuthorized as error:
            status, told = 401, str(error).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": told})


@pytest.fixture
def service(tmp_path):
    certificate, key, pin = self_signed(tmp_path, ["127.0.0.1"])
    made = Service()
    with uvicorn_of(made, certificate, key) as origin:
        made.origins = (origin,)
        with httpx.Client(verify=pinned_context(pin), base_url=origin, trust_env=False) as client:
            yield made, client


def send(client, made, key=SITE):
    sign_request(made, key, time.time())
    return client.send(made)


@pytest.mark.parametrize(
    ("method", "url", "options"),
    [
        ("GET", "/rounds/1?wait=30", {}),
        ("GET", "/", {}),
        ("POST", "/sums/a%2Fb/ü (1)?x=a%20b&y=ö&&z", {"json": {"a": 1}}),
        ("PUT", "/uploads/1", {"content": bytes(3_000_000), "headers": {"Content-Type": "application/octet-stream"}}),
        ("POST", "/form", {"data": {"a": "b c"}}),
    ],
)
def test_a_members_request_is_taken_once(service, method, url, options):
    service, client = service
    made = client.build_request(method, url, **options)
    assert send(client, made).status_code == 200
    again = client.send(made)
    assert (again.status_code, b"seen before" in again.content) == (401, True)
    assert [(keyid, digest) for _, keyid, digest in service.counted] == [(SITE.public.hex(), sha256(made.content).digest())]
    assert send(client, made).status_code == 200


def test_a_streamed_body_counts_when_it_is_the_signed_one(service):
    service, client = service
    chunks = [bytes([n]) * 100_000 for n in range(20)]
    signed = sha256(b"".join(chunks)).digest()
    for body, status in ((chunks, 200), (chunks[:-1], 401), (chunks[::-1], 401), ([*chunks, b"x"], 401), ([], 401)):
        made = client.build_request("PUT", "/uploads/2", content=iter(body))
        sign_request(made, SITE, time.time(), body_digest=signed)
        assert client.send(made).status_code == status
    assert [digest for _, _, digest in service.counted] == [signed]


def test_hostile_requests_are_refused_and_the_service_goes_on(service):
    service, client = service
    unsigned = client.post("/x", content=b"1")
    stranger = send(client, client.build_request("POST", "/x"), STRANGER)
    elsewhere = client.build_request("POST", "https://other.example/x")
    sign_request(elsewhere, SITE, time.time())
    relayed = client.build_request("POST", "/x", headers=[(n, v) for n, v in elsewhere.headers.items() if n != "content-length"])
    for answer in (unsigned, stranger, client.send(relayed)):
        assert answer.status_code == 401
    late = client.build_request("POST", "/x")
    sign_request(late, SITE, time.time() - 3600)
    assert b"clock" in client.send(late).content
    assert service.counted == []
    assert send(client, client.build_request("POST", "/x")).status_code == 200
