"""A member that is hostile, and strangers, against a real server: each request is refused, the server stays up, and the
federation ends with the sum that it would have had."""

from __future__ import annotations

import gzip
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest

from manent.core.canonical import canonical
from manent.crypto import SigningKey
from manent.network.site.joining import join
from manent.network.site.state import SiteState
from manent.network.trust.identity import Identity
from manent.network.trust.join import JoinToken
from manent.network.trust.people import People
from manent.network.trust.signing import sign_request
from manent.network.trust.tls import pinned_context
from manent.network.wire.protocol import pack
from manent.storage import open_store
from manent.summation.parties import wire
from manent.summation.parties.wire import Kind
from manent.summation.plain.terms import PlainCall
from tests.network.processes import Federation, until
from tests.network.serving import connected
from tests.network.test_end_to_end import check_equal

STRANGER = SigningKey(bytes([7] * 32))
DRIPPING = 60
SECONDS_TO_CLOSE = 60.0


@dataclass
class Enemy:
    """A member of the federation that keeps its key and no rule: site 3, of four."""

    federation: Federation
    token: JoinToken
    key: SigningKey
    sum: str = ""
    context: bytes = b""
    size: int = 0
    tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = httpx.Client(verify=pinned_context(self.token.pin), base_url=self.token.url, timeout=60, trust_env=False)

    @property
    def study(self) -> str:
        return self.sum.split("-")[0]

    def request(self, method, path, body=b"", key=None, now=0.0, signed=True, **headers) -> httpx.Request:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        made = self.client.build_request(method, path, content=body, headers=given)
        if signed:
            sign_request(made, key or self.key, time.time() + now)
        return made

    def ask(self, *about, **more) -> httpx.Response:
        return self.client.send(self.request(*about, **more))

    def person(self, who, method, path, body=b"") -> httpx.Response:
        return self.client.request(method, path, content=body, headers={"Authorization": f"Bearer {self.tokens[who]}"})

    def upload(self, body: bytes, context: bytes | None = None) -> httpx.Response:
        framed = wire.frame(Kind.UPLOAD, self.context if context is None else context, body)
        return self.ask("POST", f"/v1/sums/{self.sum}/message", framed)

    def numbers(self, value: float = 0.0, size: int = 0, dtype: str = "<f4") -> bytes:
        return np.full(self.size + size, value, dtype).tobytes()

    def connect(self) -> ssl.SSLSocket:
        return connected(self.token.url, self.token.pin)

    def raw(self, data: bytes, more: Sequence[bytes] = ()) -> int:
        """The status with which bytes are answered; 0 where the connection is closed instead."""
        with self.connect() as connection:
            connection.settimeout(60)
            with suppress(OSError):
                connection.sendall(data)
                for piece in more:
                    connection.sendall(piece)
            answered = b""
            with suppress(OSError):
                answered = connection.recv(4096)
            return int(answered.split(b" ", 2)[1]) if answered.startswith(b"HTTP/1.1 ") else 0

    def head(self, made: httpx.Request, **changes: str) -> bytes:
        """A request's line and headers as bytes, some of them changed."""
        headers = {**dict(made.headers), **{name.replace("_", "-"): value for name, value in changes.items()}}
        lines = [f"{made.method} {made.url.raw_path.decode()} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()


def altered(made: httpx.Request, **changes: str) -> httpx.Request:
    for name, value in changes.items():
        made.headers[name.replace("_", "-")] = value
    return made


def unread(enemy: Enemy, told: str, sent: bytes = b"") -> int:
    """A signed upload whose body is said to be as long as this."""
    made = enemy.request("PUT", f"/v1/sums/{enemy.sum}/upload?offset=0", b"x" * 1000)
    return enemy.raw(enemy.head(made, content_length=told), [sent] if sent else [])


def truncated(enemy: Enemy) -> int:
    """A body that breaks off."""
    made = enemy.request("PUT", f"/v1/sums/{enemy.sum}/upload?offset=0", b"x" * 1000)
    with enemy.connect() as connection:
        connection.sendall(enemy.head(made) + b"x" * 500)
    length = enemy.ask("GET", f"/v1/sums/{enemy.sum}/upload").json()["length"]
    assert length == 0, "what was cut short has arrived"
    return 0


def bundle(enemy: Enemy, **changes: object) -> bytes:
    """The study's bundle, changed as its class would not let it be."""
    document = json.loads(enemy.ask("GET", f"/v1/studies/{enemy.study}/bundle").content)
    return canonical({**document, **changes})


def submitted(enemy: Enemy, *parts: bytes) -> httpx.Response:
    return enemy.person("researcher", "POST", "/v1/studies?sites=4", pack(parts))


def spoken_for(enemy: Enemy, key: SigningKey) -> httpx.Response:
    """Signed by one's own key under the name of another."""
    made = enemy.request("GET", f"/v1/sums/{enemy.sum}/message", key=key)
    own, other = key.public.hex(), Identity.load(enemy.federation.folder / "site0" / "identity.key").public_hex
    return enemy.client.send(altered(made, signature_input=made.headers["signature-input"].replace(own, other)))


def replayed(enemy: Enemy) -> httpx.Response:
    made = enemy.request("GET", "/v1/tasks")
    assert enemy.client.send(made).status_code == 200
    return enemy.client.send(made)


def tampered(enemy: Enemy) -> httpx.Response:
    made = enemy.request("POST", f"/v1/studies/{enemy.study}/decision", canonical({"accepted": True, "reason": "yes"}))
    other = canonical({"accepted": True, "reason": "yet"})
    return enemy.client.send(httpx.Request(made.method, made.url, headers=made.headers, content=other))


def moved(enemy: Enemy) -> httpx.Response:
    """A signature for one path at another."""
    made = enemy.request("GET", f"/v1/sums/{enemy.sum}")
    return enemy.client.send(httpx.Request("GET", f"{enemy.token.url}/v1/sums/{enemy.sum}/message", headers=made.headers))


def joined(enemy: Enemy, name: str, key: SigningKey = STRANGER, secret: str | None = None) -> httpx.Response:
    return enemy.ask("POST", "/v1/join", canonical({"name": name, "secret": secret or enemy.token.secret}), key=key)


@cache
def bomb() -> bytes:
    return gzip.compress(bytes(100 << 20))


def smuggled(enemy: Enemy) -> int:
    """Two requests in one, for whoever counts the body otherwise."""
    made = enemy.request("POST", f"/v1/studies/{enemy.study}/decision", b"0\r\n\r\n")
    return enemy.raw(enemy.head(made, transfer_encoding="chunked") + b"0\r\n\r\nGET /v1/tasks HTTP/1.1\r\n\r\n")


def endless(enemy: Enemy) -> int:
    """A body in chunks that does not end."""
    made = enemy.request("POST", f"/v1/studies/{enemy.study}/decision", b"")
    del made.headers["content-length"]
    piece = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    return enemy.raw(enemy.head(made, transfer_encoding="chunked"), [piece] * 64)


def flood(enemy: Enemy, count: int, length: int) -> int:
    head = b"GET /v1/tasks HTTP/1.1\r\nhost: x\r\n"
    return enemy.raw(head, [b"".join(b"x-%d: %s\r\n" % (n, b"a" * length) for n in range(count)), b"\r\n"])


SAFETENSORS = (2**63 - 1).to_bytes(8, "little") + b"{}"
HUGE_TENSOR = b'{"model":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,18446744073709551615]}}'

Attack = Callable[[Enemy], "httpx.Response | int"]
CLOSED = 0
ATTACKS: dict[str, tuple[Attack, int | tuple[int, ...]]] = {
    # Bodies.
    "a body that breaks off": (truncated, CLOSED),
    "a message that is cut short": (lambda e: e.upload((b"\x00" + e.numbers())[:-1]), 409),
    "a frame that is cut short": (lambda e: e.ask("POST", f"/v1/sums/{e.sum}/message", b"MSA\x01\x06"), 409),
    "a body that is too large": (lambda e: e.ask("POST", f"/v1/sums/{e.sum}/message", bytes(5 << 20)), 400),
    "a terabyte that is announced": (lambda e: unread(e, "1000000000000"), 400),
    "a length beyond every number": (lambda e: unread(e, "9" * 4000), (400, CLOSED)),
    "a negative length": (lambda e: unread(e, "-1"), 400),
    "two lengths": (lambda e: unread(e, "1000\r\ncontent-length: 10"), 400),
    "a body without end": (endless, 400),
    "two requests in one": (smuggled, (400, 403)),
    "a bomb, and said to be one": (
        lambda e: e.ask("POST", f"/v1/studies/{e.study}/decision", bomb()[: 1 << 15], Content_Encoding="gzip"), 400,
    ),
    "a bomb as an upload": (lambda e: e.upload(b"\x00" + bomb()), 409),
    "a bomb as a part": (
        lambda e: e.ask("PUT", f"/v1/sums/{e.sum}/upload?offset=0", bomb(), Content_Encoding="deflate"), 400,
    ),
    "a header of safetensors as long as the world": (lambda e: submitted(e, bundle(e), SAFETENSORS), 400),
    "a tensor as large as the world": (
        lambda e: submitted(e, bundle(e), len(HUGE_TENSOR).to_bytes(8, "little") + HUGE_TENSOR), 400,
    ),
    "a pickle as a first vector": (lambda e: submitted(e, bundle(e), b"\x80\x04cos\nsystem\n(S'true'\ntR."), 400),
    "a zip as a first vector": (lambda e: submitted(e, bundle(e), b"PK\x03\x04" + bytes(100)), 400),
    "JSON as deep as the sea": (lambda e: e.ask("POST", f"/v1/studies/{e.study}/decision", b"[" * 60_000), 400),
    "a list of four billion messages": (
        lambda e: e.person("researcher", "POST", "/v1/studies?sites=4", b"\xff" * 4 + bytes(1 << 20)), 409,
    ),
    # Vectors.
    "whole numbers where there are none": (lambda e: e.upload(b"\x02" + e.numbers(dtype="<i8")), 409),
    "an unknown type": (lambda e: e.upload(b"\x09" + e.numbers()), 409),
    "half numbers": (lambda e: e.upload(b"\x00" + e.numbers(dtype="<f2")), 409),
    "one number too few": (lambda e: e.upload(b"\x00" + e.numbers(size=-1)), 409),
    "one number too many": (lambda e: e.upload(b"\x00" + e.numbers(size=1)), 409),
    "NaN": (lambda e: e.upload(b"\x00" + e.numbers(np.nan)), 409),
    "infinity": (lambda e: e.upload(b"\x01" + e.numbers(-np.inf, dtype="<f8")), 409),
    "no vector": (lambda e: e.upload(b""), 409),
    # Signatures.
    "no signature": (lambda e: e.ask("GET", "/v1/tasks", signed=False), 403),
    "a stranger's signature": (lambda e: e.ask("GET", "/v1/tasks", key=STRANGER), 403),
    "a stranger's upload": (lambda e: e.ask("POST", f"/v1/sums/{e.sum}/message", b"x", key=STRANGER), 403),
    "a stranger's long body": (lambda e: e.ask("POST", f"/v1/sums/{e.sum}/message", bytes(4 << 20), key=STRANGER), 403),
    "a signature that is altered": (
        lambda e: e.client.send(altered(e.request("GET", "/v1/tasks"), signature="manent=:" + "A" * 86 + "==:")), 403,
    ),
    "no signature at all": (lambda e: e.client.send(altered(e.request("GET", "/v1/tasks"), signature="manent=(;:")), 403),
    "a signature that is seen again": (replayed, 403),
    "another body than was signed": (tampered, 403),
    "a path that was not signed": (moved, 403),
    "a header that was not signed": (
        lambda e: e.client.send(altered(e.request("GET", f"/v1/sums/{e.sum}/assignment"), range="bytes=0-1")), 403,
    ),
    "a signature of an hour ago": (lambda e: e.ask("GET", "/v1/tasks", now=-3600), 403),
    "a signature from the future": (lambda e: e.ask("GET", "/v1/tasks", now=3600), 403),
    "a signature for another host": (lambda e: e.ask("GET", "/v1/tasks", Host="fl.example"), 403),
    "another site's name": (lambda e: spoken_for(e, e.key), 403),
    "another site's name, by a stranger": (lambda e: spoken_for(e, STRANGER), 403),
    # Tokens.
    "no token": (lambda e: e.client.get("/v1/studies"), 403),
    "a viewer who submits": (lambda e: e.person("viewer", "POST", "/v1/studies?sites=4", pack([bundle(e)])), 403),
    "a viewer who stops": (lambda e: e.person("viewer", "POST", f"/v1/studies/{e.study}/stop"), 403),
    "a viewer who takes the model": (lambda e: e.person("viewer", "GET", f"/v1/studies/{e.study}/result"), 403),
    "a researcher who stops another's": (lambda e: e.person("researcher", "POST", f"/v1/studies/{e.study}/stop"), 403),
    "a researcher who looks at another's": (lambda e: e.person("researcher", "GET", f"/v1/studies/{e.study}"), 403),
    "a revoked token": (lambda e: e.person("gone", "GET", "/v1/studies"), 403),
    "half a token": (lambda e: e.person("half", "GET", "/v1/studies"), 403),
    "a person's token for a site's request": (lambda e: e.person("administrator", "GET", "/v1/tasks"), 403),
    "a site's signature for a person's request": (lambda e: e.ask("GET", f"/v1/studies/{e.study}/history"), 403),
    "an invitation that is none": (lambda e: joined(e, "newcomer", secret="0" * 64), 403),
    "another's name, with the invitation": (lambda e: joined(e, "site0"), 400),
    # Which sum.
    "the next round": (lambda e: e.ask("GET", f"/v1/sums/{e.study}-2-0/message"), 400),
    "a round that never is": (lambda e: e.ask("GET", f"/v1/sums/{e.study}-999999999-0"), 400),
    "another study": (lambda e: e.ask("GET", f"/v1/sums/{'0' * 64}-1-0"), 400),
    "another attempt": (lambda e: e.upload(b"\x00" + e.numbers(), bytes(32)), 409),
    "an upload beyond its end": (lambda e: e.ask("PUT", f"/v1/sums/{e.sum}/upload?offset={2**61}", b"x"), 400),
    "an upload from before its beginning": (lambda e: e.ask("PUT", f"/v1/sums/{e.sum}/upload?offset=-1", b"x"), 400),
    "a digest that is another": (
        lambda e: e.ask("POST", f"/v1/sums/{e.sum}/upload/complete", canonical({"digest": "0" * 64})), 400,
    ),
    # Names.
    "a sum by a path": (lambda e: e.ask("GET", "/v1/sums/..%2F..%2F..%2Fetc%2Fpasswd"), (400, 404)),
    "a study by a path": (lambda e: e.ask("GET", "/v1/studies/%2e%2e%2fserver.db/bundle"), (400, 404)),
    "a study with a zero byte": (lambda e: e.ask("GET", f"/v1/studies/{'0' * 63}%00/bundle"), 400),
    "the folder above": (lambda e: e.raw(b"GET /v1/../../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n"), 404),
    "a blob by a path": (
        lambda e: e.ask("POST", f"/v1/sums/{e.sum}/upload/complete", canonical({"digest": "../../identity.key"})), 400,
    ),
    "a site by a path": (lambda e: joined(e, "../../site0"), 400),
    "a file of a bundle by a path": (lambda e: submitted(e, bundle(e, code={"study.py": "", "../../x.py": ""})), 400),
    "a data set by a path": (lambda e: submitted(e, bundle(e, data="../data")), 400),
    "a bundle that was altered": (lambda e: submitted(e, bundle(e, data="other")), 403),
    # Times and numbers.
    "a wait that is no number": (lambda e: e.ask("GET", "/v1/tasks?wait=nan"), 400),
    "a wait without end": (lambda e: e.ask("GET", "/v1/tasks?wait=inf"), 400),
    "a wait before it began": (lambda e: e.ask("GET", "/v1/tasks?wait=-1"), 400),
    "a number of ten thousand digits": (lambda e: e.ask("GET", "/v1/roster?number=" + "9" * 8000), (400, 403)),
    "a range that is nowhere": (lambda e: e.ask("GET", f"/v1/sums/{e.sum}/assignment", Range="bytes=999999999-"), 416),
    # Connections.
    "a megabyte of headers": (lambda e: flood(e, 100, 10_000), (400, CLOSED)),
    "ten thousand headers": (lambda e: flood(e, 10_000, 1), (400, CLOSED)),
    "a path of a hundred thousand letters": (
        lambda e: e.raw(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n"), (400, CLOSED),
    ),
    "no HTTP": (lambda e: e.raw(b"\x16\x03\x01" * 100), 400),
    "another version of HTTP": (lambda e: e.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), (400, 404)),
    "a web socket": (
        lambda e: e.raw(b"GET /v1/tasks HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"), 403,
    ),
    "an unknown method": (lambda e: e.ask("BREW", "/v1/tasks"), 405),
    "another version of the protocol": (lambda e: e.ask("GET", "/v1/tasks", Manent_Version="9"), 409),
}  # fmt: skip


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Iterator[Federation]:
    """A server, and three of four sites that wait in the first round for the fourth."""
    with Federation(tmp_path_factory.mktemp("hostile"), rounds=2) as found:
        found.serve()
        for index in range(3):
            found.join(index)
        yield found


@pytest.fixture(scope="module")
def enemy(federation) -> Enemy:
    token = JoinToken.decode(federation.tokens[0])
    state = SiteState.create(federation.folder / "site3", "site3")
    until(lambda: joins(state, token), 60, federation.logs)
    found = Enemy(federation, token, state.identity.signing_key)

    def asked() -> bool:
        told = found.ask("GET", "/v1/tasks").json()
        for study in told["studies"]:
            if not study["decided"]:
                yes = canonical({"accepted": True, "reason": ""})
                found.ask("POST", f"/v1/studies/{study['hash']}/decision", yes)
        found.sum = (told["sums"] or [""])[0]
        return bool(found.sum)

    until(asked, 60, federation.logs)
    call = PlainCall.read(bytes.fromhex(found.ask("GET", f"/v1/sums/{found.sum}").json()["call"]))
    found.context, found.size = call.context, call.terms.size
    people = People(open_store(federation.folder / "srv" / "server.db"))
    found.tokens = {role: people.create(role, role) for role in ("viewer", "researcher", "administrator")}
    found.tokens["gone"] = people.create("gone", "administrator")
    people.revoke("gone")
    found.tokens["half"] = found.tokens["administrator"][:-32]
    return found


def joins(state: SiteState, token: JoinToken) -> bool:
    with suppress(Exception):  # until the server listens
        return join(state, token)
    return False


@pytest.fixture(scope="module")
def dripping(enemy) -> Iterator[list[float]]:
    """Connections that send a byte a second: half of them a request that never begins, half a body that nobody wants.

    Seconds after which each was closed."""
    began, over, lasted = time.monotonic(), threading.Event(), []
    posted = b"POST /v1/studies?sites=4 HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
    waiting = [(enemy.connect(), b"GET /v1/tasks HTTP/1.1\r\nx: " if n % 2 else posted) for n in range(DRIPPING)]
    for connection, begin in waiting:
        connection.settimeout(0.01)
        connection.sendall(begin)

    def drip() -> None:
        left = [connection for connection, _ in waiting]
        while left and not over.is_set():
            for connection in list(left):
                try:
                    connection.sendall(b"a")
                    with suppress(TimeoutError, ssl.SSLWantReadError):
                        while connection.recv(4096):
                            pass
                        raise ConnectionError
                except (OSError, ssl.SSLError):
                    lasted.append(time.monotonic() - began)
                    left.remove(connection)
                    connection.close()
            over.wait(1.0)
        for connection in left:
            connection.close()

    thread = threading.Thread(target=drip)
    thread.start()
    yield lasted
    over.set()
    thread.join()


def most_memory(federation: Federation) -> int:
    """Bytes that the server has held at most."""
    status = Path(f"/proc/{federation.running['server'].pid}/status")
    (found,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(found.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused(enemy, dripping, name):
    attack, wanted = ATTACKS[name]
    answered = attack(enemy)
    status = answered if isinstance(answered, int) else answered.status_code
    told = answered.text if isinstance(answered, httpx.Response) else ""
    assert status in (wanted if isinstance(wanted, tuple) else (wanted,)), told
    if isinstance(answered, httpx.Response) and status != 416:
        assert "Traceback" not in told
        assert set(answered.json()) == {"error"}
    assert enemy.client.get("/health").status_code == 200
    assert enemy.ask("GET", f"/v1/sums/{enemy.sum}").json()["state"] == "open"
    assert enemy.federation.running["server"].poll() is None


@pytest.mark.slow
def test_strangers_leave_nothing_behind(enemy):
    store = open_store(enemy.federation.folder / "srv" / "server.db")

    def kept() -> int:
        with store.snapshot() as view:
            return len(view.keys("nonce/")) + len(view.keys("joining/"))

    before = kept()
    for n in range(20):
        own = SigningKey(bytes([n + 1] * 32))
        assert joined(enemy, f"many{n}", own, "1" * 64).status_code == 403
        assert enemy.ask("GET", "/v1/roster", key=own).status_code == 200
        assert enemy.ask("GET", "/v1/tasks", key=own).status_code == 403
    assert kept() <= before + 8  # the sites' own


@pytest.mark.slow
def test_the_others_are_unharmed(enemy, federation, dripping):
    """After all of that: the sum is exact, and who dripped was closed."""
    until(lambda: len(dripping) == DRIPPING, SECONDS_TO_CLOSE, federation.logs)
    assert not (federation.folder / "x.py").exists()
    if os.path.exists("/proc/self/status"):
        assert most_memory(federation) < 500e6, "the server has held what it should not"
    federation.join(3)
    check_equal(federation, federation.result(90))
    traces = [line for line in (federation.folder / "server.log").read_text().splitlines() if "Traceback" in line]
    assert not traces, traces[0][-600:]
