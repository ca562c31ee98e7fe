"""A server process from its folder: identity, certificate, store and invitation are made the first time, and found again
later.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import json
import logging
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FrameType

import uvicorn

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput
from manent.core.study import Study
from manent.network.server import documents
from manent.network.server.documents import StudyRecord
from manent.network.server.http.app import application
from manent.network.server.http.connections import MOST_CONNECTIONS, MOST_HEAD, WAITING, Impatient, allow_descriptors
from manent.network.server.rosters import settle
from manent.network.server.rounds import Settings
from manent.network.server.service import Service
from manent.network.server.submitting import submit
from manent.network.trust.identity import Identity, create_file
from manent.network.trust.join import JoinToken
from manent.network.trust.tls import self_signed
from manent.network.wire.bundle import Bundle
from manent.network.wire.models import first_vector
from manent.storage import open_store

log = logging.getLogger("manent.server")
IDENTITY, TOKEN, STORE = "identity.key", "invitation.txt", "server.db"


@dataclass(frozen=True)
class Address:
    """Where a server listens, and by which URL sites reach it."""

    host: str
    port: int
    url: str


@dataclass(frozen=True)
class Prepared:
    """A server that is ready to run."""

    service: Service
    token: JoinToken
    address: Address
    certificate: Path
    key: Path


def prepare(
    folder: Path,
    address: Address,
    invited: int,
    settings: Settings | None = None,
    consortium: bytes | None = None,
    database: str | None = None,
    bucket: str | None = None,
    given: tuple[Path, Path] | None = None,
) -> Prepared:
    """The server in a folder, new or as it was left. Several processes may serve one folder, each at its own address.

    Args:
        invited: how many sites may join with the invitation.
        consortium: public key by which rosters are signed; None in a quick start, in which the server signs them itself, and for
            a server that first started with a consortium.
        database: URL of a store elsewhere; None keeps it in the folder.
        bucket: URL of an S3-compatible bucket for blobs; None keeps them in the folder.
        given: PEM files of a certificate (with its chain) and its key, from an authority that sites know; None makes a
            certificate, whose hash is in the invitation.

    Raises:
        InvalidInput: for another consortium than the server first started with, and for a certificate that cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / IDENTITY
    identity = Identity.load(path) if path.exists() else Identity.create(path, "server")
    certificate, key, pin = _tls(folder, address, given)
    store = open_store(database or folder / STORE)
    consortium = settle(store, consortium)
    service = Service(store, folder, identity, (address.url,), settings=settings, consortium=consortium, bucket=bucket)
    token = _token(folder, address.url, pin, consortium)
    service.rosters.invite(token, invited)
    return Prepared(service, token, address, certificate, key)


def _tls(folder: Path, address: Address, given: tuple[Path, Path] | None) -> tuple[Path, Path, str | None]:
    """Certificate, key, and the pin for the invitation."""
    if given is None:
        host = address.url.removeprefix("https://").split("/")[0].rsplit(":", 1)[0].strip("[]")
        return self_signed(folder / "tls", [host])
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*given, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"{given[0]} and {given[1]} are not a certificate and its key, in PEM without a password: {error}."
        ) from None
    return *given, None


def _token(folder: Path, url: str, pin: str | None, consortium: bytes | None) -> JoinToken:
    """The invitation to this address that was given out before, if it still holds; else a new one."""
    for path in (folder / TOKEN, folder / f"invitation-{sha256(url.encode()).hexdigest()[:8]}.txt"):
        found = JoinToken.decode(path.read_text()) if path.exists() else None
        if found is not None and found.url != url:
            continue  # another process on this folder has given it out
        if found is not None and (found.pin, found.consortium_public) == (pin, consortium):
            return found
        path.unlink(missing_ok=True)
        break
    fresh = JoinToken.create(url, pin, None if consortium is None else consortium.hex())
    create_file(path, fresh.encode().encode() + b"\n")
    return fresh


def queue(prepared: Prepared, study: Study, bundle: Bundle, seed: int, needed: int) -> str:
    """Submit a study that the server's operator has at hand. Returns its hash."""
    service = prepared.service
    signed = bundle.sign(service.identity.signing_key)
    return submit(service.rounds, signed, service.identity.public_hex, seed, needed, first_vector(study, bundle, seed))


class _Server(uvicorn.Server):
    """Ends long polls as soon as it is told to stop."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on a signal: long polls first, then uvicorn."""
        self._stop()
        super().handle_exit(sig, frame)


def serve(prepared: Prepared, folder: Path, until_done: bool = False, ready: Callable[[], None] = lambda: None) -> None:
    """Run until told to stop; or, with `until_done`, until every study is over and each site has had three seconds to hear of it.

    Args:
        folder: results are written to its folder "results".
        ready: called once, before the first request is taken.
    """
    service, address = prepared.service, prepared.address
    asyncio.sslproto.SSLProtocol.max_size = WAITING  # else 256 KiB for each connection, and as much again to decrypt it
    config = uvicorn.Config(
        application(service),
        host=address.host,
        port=address.port,
        ssl_certfile=str(prepared.certificate),
        ssl_keyfile=str(prepared.key),
        loop="asyncio",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
        server_header=False,
        http=Impatient,
        ws="none",
        h11_max_incomplete_event_size=MOST_HEAD,
        limit_concurrency=MOST_CONNECTIONS,
    )
    allow_descriptors()
    server = _Server(config, service.stop)
    ticking = threading.Thread(target=service.run, name="ticking", daemon=True)
    ticking.start()
    watching = threading.Thread(target=_watch, args=(service, folder, server, until_done), name="results", daemon=True)
    watching.start()
    ready()
    try:
        server.run()
    finally:
        service.stop()
        ticking.join(10)


def _watch(service: Service, folder: Path, server: uvicorn.Server, until_done: bool) -> None:
    """Write results as studies end."""
    pause = threading.Event()
    over_since = 0.0
    while not server.should_exit:
        pause.wait(0.25)
        with service.store.snapshot() as view:
            studies = documents.studies(view)
        for study in studies:
            if study.over:
                write_result(service, study, folder / "results" / study.hash)
        if until_done and studies and all(study.over for study in studies):
            over_since = over_since or service.clock()
            if service.clock() - over_since > 3.0:
                service.stop()
                server.should_exit = True


def write_result(service: Service, study: StudyRecord, folder: Path) -> None:
    """Write what a study has come to as plain files. `study.json` comes last, so that a folder with one is complete."""
    if (folder / "study.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with service.store.snapshot() as view:
        rows = documents.history(view, study.hash)
    (folder / "history.jsonl").write_bytes(b"".join(canonical(row) + b"\n" for row in rows))
    if study.result:
        with (folder / "result.safetensors").open("wb") as file:
            file.writelines(service.blobs.read(study.result))
    if study.clients:
        (folder / "statement.txt").write_text(f"{service.statement(study)}\n", encoding="utf-8")
    facts = {"hash": study.hash, "name": study.name, "phase": study.phase, "reason": study.reason, "seed": study.seed}
    part = folder / "study.json.part"
    part.write_text(json.dumps(facts, indent=2, ensure_ascii=False), encoding="utf-8")
    os.replace(part, folder / "study.json")
    log.info("study over", extra={"study": study.hash, "phase": study.phase, "reason": study.reason, "folder": str(folder)})
