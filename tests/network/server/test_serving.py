"""What a server is given from outside: a certificate, a bucket; and what lies between it and its sites: a proxy."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, contextmanager, suppress

import pytest

import manent as mn
from manent.core.errors import InvalidInput
from manent.crypto.identity import SigningKey
from manent.network.server.http.app import application
from manent.network.server.service import Service
from manent.network.server.serving import Address, prepare
from manent.network.site.connection import Away, Connection
from manent.network.trust.tls import self_signed
from tests.app.program import manent, write
from tests.network.serving import uvicorn_of
from tests.network.world import URL, World, study_of
from tests.storage import s3

KEY = SigningKey(b"k" * 32)


def test_a_study_whose_blobs_lie_in_a_bucket_ends_the_same(tmp_path, monkeypatch):
    pytest.importorskip("obstore")

    class InBucket(World):
        def process(self, random=None):
            of = (self.store, self.folder / "srv", self.server, (URL,))
            options = {"settings": self.settings, "clock": lambda: self.now, "random": random}
            return Service(*of, **options, bucket="s3://bucket/manent")

    with s3.served() as (address, objects, _):
        values = {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        for name, value in {**values, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "a").mkdir()
        world = InBucket(tmp_path / "a", 3)
        hash = world.begin(study_of())
        assert world.run(hash, restart=True).phase == "finished"
        study = world.study(hash)
        assert {f"manent/{study.bundle}", f"manent/{study.result}"} <= set(objects)
        assert not list((tmp_path / "a" / "srv").rglob("*"))
        found = world.result(hash)
    run = mn.simulate(study_of(), world.data, seed=0, workers=0)
    assert (found["model"] == run.result["model"]).all()


def test_serve_takes_a_bucket(tmp_path):
    prepared = prepare(tmp_path / "srv", Address("127.0.0.1", 1, "https://127.0.0.1:1"), 1, bucket=f"file://{tmp_path}/elsewhere")
    digest = prepared.service.blobs.put([b"abc"])
    assert (tmp_path / "elsewhere" / digest).read_bytes() == b"abc"


def test_a_given_certificate_is_used_and_vouched_for_by_authorities_alone(tmp_path, monkeypatch):
    certificate, key, _ = self_signed(tmp_path / "ca", ["127.0.0.1"])
    address = Address("127.0.0.1", 1, "https://127.0.0.1:1")
    prepared = prepare(tmp_path / "srv", address, 1, given=(certificate, key))
    assert prepared.token.pin is None
    with uvicorn_of(application(prepared.service), prepared.certificate, prepared.key) as origin:
        with closing(Connection(origin, None, KEY)) as stranger, pytest.raises(Away, match="certificate verify failed"):
            stranger.table("GET", "/v1/server")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with closing(Connection(origin, None, KEY)) as connection:
            assert connection.table("GET", "/v1/server")["public"] == prepared.service.identity.public_hex


def test_a_certificate_that_is_none_is_refused(tmp_path):
    certificate, _, _ = self_signed(tmp_path / "a", ["127.0.0.1"])
    _, other, _ = self_signed(tmp_path / "b", ["127.0.0.1"])
    with pytest.raises(InvalidInput, match="not a certificate and its key"):
        prepare(tmp_path / "srv", Address("127.0.0.1", 1, "https://127.0.0.1:1"), 1, given=(certificate, other))
    found = manent("serve", write(tmp_path), "--certificate", certificate, "--folder", tmp_path / "srv")
    assert found.exit_code == 2
    assert "go together" in found.stderr


@contextmanager
def proxy():
    """A proxy that connects whomever asks, and what it was asked."""
    asked = []

    def pump(a, b):
        try:
            while data := a.recv(1 << 16):
                b.sendall(data)
        except OSError:
            pass
        for end in (a, b):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve():
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += near.recv(1 << 16)
            asked.append(head.split(b"\r\n", 1)[0].decode())
            host, _, port = asked[-1].split(" ")[1].rpartition(":")
            far = socket.create_connection((host, int(port)))
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_site_goes_through_the_proxy_of_its_environment(tmp_path, monkeypatch):
    """The proxy sees where to, and nothing else: TLS ends at the pinned server."""
    prepared = prepare(tmp_path / "srv", Address("127.0.0.1", 1, "https://127.0.0.1:1"), 1)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with uvicorn_of(application(prepared.service), prepared.certificate, prepared.key) as origin, proxy() as (address, asked):
        monkeypatch.setenv("HTTPS_PROXY", address)
        connection = Connection(origin, prepared.token.pin, KEY)
        assert connection.table("GET", "/v1/server")["name"] == "server"
        connection.close()
        assert asked == [f"CONNECT {origin.removeprefix('https://')} HTTP/1.1"]
