"""Servers in threads of this process, with TLS."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from manent.network.trust.tls import pinned_context


@contextmanager
def uvicorn_of(app: Any, certificate: Path, key: Path, http: Any = "auto") -> Iterator[str]:
    """The origin of an ASGI application, served over HTTPS."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        how = {"log_level": "critical", "lifespan": "off", "http": http}
        config = uvicorn.Config(app, ssl_certfile=certificate, ssl_keyfile=key, **how)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"https://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def connected(origin: str, pin: str) -> ssl.SSLSocket:
    """A bare connection, after its handshake."""
    at = urlsplit(origin)
    return pinned_context(pin).wrap_socket(socket.create_connection((at.hostname, at.port), 30))


@contextmanager
def listening(certificate: Path, key: Path, newest: ssl.TLSVersion | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """The origin of a TLS server that answers nothing, and what it was sent after each handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if newest is not None:
        context.maximum_version = newest
    heard: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = bound.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        heard.append(b"")
                        while part := secured.recv(1 << 16):
                            heard[-1] += part
                except OSError:
                    continue

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{bound.getsockname()[1]}", heard
        finally:
            bound.shutdown(socket.SHUT_RDWR)
            thread.join()
