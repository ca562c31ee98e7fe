"""Everything that reads bytes from outside, one row each: how it reads, what it may raise, and what it takes."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from hypothesis import strategies as st
from starlette.requests import Request

import manent as mn
from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, NotAuthorized, ProtocolAbort, Refused
from manent.core.parties import SERVER, Envelope
from manent.core.vectors import Block, Entry, Layout
from manent.crypto import SigningKey
from manent.models import files
from manent.network.sandbox import handover
from manent.network.server.http.requests import blob
from manent.network.server.http.sites import table, texts
from manent.network.site import told
from manent.network.trust.identity import Identity
from manent.network.trust.join import JoinToken
from manent.network.trust.people import People
from manent.network.trust.policy import Policy, approved
from manent.network.trust.receipts import Promise, Receipt, Receipts, stored, verify
from manent.network.trust.roster import Entry as Member
from manent.network.trust.roster import RosterBook, SignedRoster
from manent.network.trust.signing import Verifier, sign_request
from manent.network.trust.tls import pin_of, self_signed
from manent.network.wire import frames, protocol
from manent.network.wire.bundle import Bundle
from manent.rounds.declared import rebuild, schema_of
from manent.storage import MemoryStore
from manent.storage.arrays import decode_arrays, encode_arrays
from manent.storage.blobs import Blobs
from manent.summation.parties import wire
from manent.summation.parties.call import Roster, SumExpected
from manent.summation.parties.fields import Reader
from manent.summation.parties.wire import Kind
from manent.summation.plain.client import PlainClient
from manent.summation.plain.server import PlainServer
from manent.summation.plain.terms import PlainCall, PlainTerms, upload_message
from manent.summation.secagg import Call, SecAgg, bodies, ring
from tests.summation.secagg.attempts import Attempt, terms_of

MOST_MEMORY = 32 << 20
"""Bytes that reading may take, whatever a few kilobytes say of themselves: a file is read up to its limit, of 16 MiB at most."""
NOW = 1_800_000_000
KEY = SigningKey(bytes([5] * 32))
KEYS = [SigningKey(bytes([n] * 32)) for n in range(1, 6)]


@dataclass(frozen=True)
class Parser:
    """How bytes are read.

    Attributes:
        errors: what it may raise; nothing else.
        valid: what it takes.
        write: the bytes of a value, where there is one form: then what is taken is what was written.
    """

    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    valid: Sequence[bytes]
    write: Callable[[Any], bytes] | None = None


@contextmanager
def in_file(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def of_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Reads a file of a folder that is its own."""

    def run(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            path.chmod(0o600)
            return read(path)

    return run


def of_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: read(data.decode("utf-8", "replace"))


def of_json(read: Callable[[Any], object], error: type[Exception]) -> Callable[[bytes], object]:
    """Reads plain data, which come as JSON in its canonical form: a bundle takes no other."""

    def run(data: bytes) -> object:
        try:
            found = json.loads(data)
            same = canonical(found) == data
        except (ValueError, RecursionError, InvalidInput):
            raise error("no JSON") from None
        if not same:
            raise error("not the canonical form")
        return read(found)

    return run


def whole(read: Callable[[Reader], object]) -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        reader = Reader(data)
        found = read(reader)
        reader.end()
        return found

    return run


def framed(head: Mapping[str, Any], **arrays: np.ndarray) -> bytes:
    return b"".join(frames.encode(head, arrays))


def read_frame(data: bytes) -> frames.Frame:
    with in_file(data) as file:
        found = frames.read(file, 1 << 16, file=True)
    if found is None:
        raise InvalidInput("nothing")
    return found


def read_handover(data: bytes) -> mn.Client:
    with in_file(data) as file:
        return handover.read(file)


# Studies, and who takes part.

STUDY = mn.Study(mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=2, batch_size=4)), rounds=2)
PRIVATE = mn.Study(
    mn.SCAFFOLD(mn.SoftmaxModel(3, 2), mn.LocalSGD(lr=0.1, steps=2, batch_size=4), weighting="equal"),
    layers=(mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=1.0)),
    summation=SecAgg(minimum_cohort=5),
)
SCHEMA = mn.Schema(shape=(3,), classes=2)
BUNDLES = [
    Bundle.of(STUDY, SCHEMA, "heart").sign(KEY),
    Bundle.of(PRIVATE, SCHEMA, "heart", {"study.py": "x = 1\n"}, ("numpy==2.1.3",)).sign(KEY),
]
MEMBERS = tuple(Member(f"site{n}", key.public.hex(), NOW) for n, key in enumerate(KEYS))
SIGNED = SignedRoster.sign(KEY, 3, NOW, NOW + 1000, MEMBERS)
TOKENS = [JoinToken.create("https://fl.example:8443", "a" * 64), JoinToken.create("https://[::1]/x", None, "b" * 64)]


@cache
def book() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        RosterBook.create(folder, "consortium").add("ward", KEY.public.hex(), NOW)
        return (Path(folder) / "book.json").read_bytes()


@cache
def identity() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Identity.create(Path(folder) / "key", "ward")
        return (Path(folder) / "key").read_bytes()


@cache
def certificate() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return self_signed(folder, ["fl.example"])[0].read_bytes()


@cache
def receipts() -> bytes:
    store = MemoryStore()
    own = Receipts(store, Identity("ward", KEY), lambda: float(NOW))
    promise = Promise({"server": 1.5, "public": None}, 1e-5, "example", "add_or_remove", 7)
    for round in (1, 2, 3):
        own.append(Receipt("c" * 64, "train", round, 0, 1, "d" * 64, "released", 4, 4, "SecAgg", promise))
    return b"\n".join(stored(store)[0])


# Requests.


def signed_headers(body: bytes = b"") -> bytes:
    made = httpx.Request("POST", "https://fl.example/v1/tasks?wait=1", content=body, headers={"Manent-Version": "1"})
    sign_request(made, KEY, NOW)
    return b"\r\n".join(name + b": " + value for name, value in made.headers.raw)


def read_headers(data: bytes) -> object:
    lines = [line.decode("latin-1").partition(": ") for line in data.split(b"\r\n")]
    by = Verifier({KEY.public.hex(): KEY.public}.get, MemoryStore(), clock=lambda: float(NOW))
    return by.examine("POST", "https://fl.example/v1/tasks?wait=1", [(name, value) for name, _, value in lines])


@cache
def blobs() -> tuple[Blobs, str]:
    found = Blobs("memory://")
    return found, found.put([bytes(range(200))])


def read_range(data: bytes) -> object:
    """An answer of 200 bytes to a request with this Range."""
    found, digest = blobs()
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"range", data)], "query_string": b""}
    service: Any = SimpleNamespace(blobs=found)
    answered = blob(Request(scope), service, digest)
    assert answered.status_code in (200, 206, 416)
    if answered.status_code != 416:
        assert 0 <= int(answered.headers["content-length"]) <= 200
    return answered.status_code


def tasks() -> dict[str, Any]:
    study = {
        "hash": "e" * 64,
        "name": "n",
        "phase": "running",
        "clients": 4,
        "roster": 4,
        "seed": 0,
        "reason": "",
        "decided": True,
    }
    return {"studies": [study], "sums": [f"{'e' * 64}-1-0"], "roster": 4}


def about() -> dict[str, Any]:
    named = {"id": f"{'e' * 64}-1-0", "study": "e" * 64, "name": "train", "call": "00ff", "assignment": "f" * 64}
    return {**named, "round": 1, "index": 0, "attempt": 1, "roster": 4, "state": "open", "reason": "", "included": False}


# Sums.

ROSTER = Roster.of(3, [key.public for key in KEYS])
PLAIN_TERMS = PlainTerms(5, 4, False, 0, 2, 5)
OF = (b"s" * 32, "train.0", 1, 1, 3, ROSTER.root, b"m" * 32, b"b" * 32, "server")
PLAIN = PlainCall(PLAIN_TERMS, *OF)
ATTEMPT = Attempt(terms_of(5))


def upload(vector: np.ndarray) -> bytes:
    return upload_message(PLAIN.context, vector, PLAIN_TERMS)


LEAVES = wire.frame(Kind.ABORT, bytes(32), b"x")


def called() -> bytes:
    found = ATTEMPT.new_server().message(ATTEMPT.client(0).name)
    assert found is not None
    return found


def advertised() -> bytes:
    client = ATTEMPT.client(0)
    return client.receive(Envelope(SERVER, client.name, called())).send[0].body


def heard_by_server(data: bytes) -> object:
    return ATTEMPT.new_server().receive(Envelope(ATTEMPT.client(0).name, SERVER, data))


def heard_by_client(data: bytes) -> object:
    client = ATTEMPT.client(0)
    return client.receive(Envelope(SERVER, client.name, data))


def heard_in_the_clear(data: bytes) -> object:
    return PlainServer(PLAIN, PLAIN.cohort(ROSTER)).receive(Envelope(PLAIN.cohort(ROSTER)[0].hex(), SERVER, data))


def heard_in_the_clear_by_a_client(data: bytes) -> object:
    expected = SumExpected(b"s" * 32, "train.0", 1, b"m" * 32, PLAIN_TERMS)
    client = PlainClient(KEYS[0], ROSTER, expected)
    return client.receive(Envelope(SERVER, client.name, data))


def lists(name: str, hybrid: bool) -> Parser:
    """The records of one kind of message."""
    kem, text, kept = bodies.KEM_KEY * hybrid, bodies.KEM_TEXT * hybrid, bodies.KEPT * hybrid
    kinds: dict[str, tuple[Callable[[Reader], Any], Callable[[Any], int], Sequence[Any]]] = {
        "directory": (
            lambda r: bodies.Advert.read(r, hybrid), lambda a: a.position,
            [bodies.Advert(n, b"a" * 32, b"b" * 32, b"c" * 32, b"d" * kem, b"e" * kem, b"f" * 64) for n in (1, 4)],
        ),
        "shares": (
            bodies.shares_reader(2, hybrid), lambda p: p.peer,
            [bodies.Parcel(1, b"s" * bodies.SEALED, b"t" * text),
             bodies.Parcel(3, b"s" * bodies.SEALED, *(b"t" * size for size in (text, text, kept)))],
        ),
        "deliveries": (
            bodies.deliveries_reader(2, hybrid), lambda p: p.peer,
            [bodies.Parcel(1, b"s" * bodies.SEALED, *(b"t" * text for _ in range(2))),
             bodies.Parcel(3, b"s" * bodies.SEALED, b"t" * text)],
        ),
        "consents": (bodies.Signed.read, lambda s: s.position, [bodies.Signed(n, b"s" * 64) for n in (0, 9)]),
        "reveal": (bodies.Opened.read, lambda o: o.position, [bodies.Opened(n, b"s" * 32) for n in (0, 9)]),
    }  # fmt: skip
    read, place, records = kinds[name]
    return Parser(
        whole(lambda r: bodies.read_list(r, read, place, 20)), (ProtocolAbort,),
        [bodies.listing(records), bodies.listing(records[:1]), bodies.listing([])], bodies.listing,
    )  # fmt: skip


LAYOUT = Layout((Block("parameters", (Entry("w", (3,)), Entry("b", ()))),))
PACKED = ring.pack(np.arange(5, dtype=np.int64), 20)


@cache
def model_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        files.save(Path(folder) / "m.safetensors", LAYOUT, np.arange(4, dtype=np.float32))
        return (Path(folder) / "m.safetensors").read_bytes()


EXAMPLES = {"train.x": np.zeros((3, 2), np.float32), "train.y": np.zeros(3, np.int64), "train.column.age": np.ones(3)}
PARSERS: dict[str, Parser] = {
    # Between a site and the process of a study's code.
    "frame": Parser(read_frame, (InvalidInput,), [framed({"a": 1}, x=np.arange(3.0)), framed({}), framed({"error": "no"})]),
    "handover": Parser(read_handover, (InvalidInput,), [framed({"name": "ward"}, **EXAMPLES)]),
    # Messages of sums.
    "message": Parser(
        wire.unframe, (ProtocolAbort,), [wire.frame(Kind.ASK, bytes(32), b"body"), upload(np.zeros(4, np.float32))],
        lambda found: wire.frame(*found),
    ),
    **{f"list: {name}{', hybrid' if hybrid else ''}": lists(name, hybrid)
       for hybrid in (False, True) for name in ("directory", "shares", "deliveries")},
    "list: consents": lists("consents", False),
    "list: reveal": lists("reveal", False),
    "table of shares": Parser(
        lambda data: bodies.shares_table(2, data, [1, 3], False).record(3), (ProtocolAbort,),
        [bodies.listing([bodies.Parcel(n, b"s" * bodies.SEALED) for n in (1, 3)])],
    ),
    "bitmap": Parser(
        lambda d: bodies.read_bitmap(d, 11), (ProtocolAbort,), [b"\x05\x02"], lambda found: bodies.bitmap(found, 11)
    ),
    "packed vector": Parser(lambda data: ring.unpack(data, 5, 20), (ProtocolAbort,), [PACKED]),
    "end of an upload": Parser(bodies.split_upload, (ProtocolAbort,), [b"x" * 50]),
    "reason": Parser(wire.read_reason, (), ["warum, \u00fc".encode(), b""]),
    "call": Parser(Call.read, (ProtocolAbort,), [ATTEMPT.call.body], lambda call: call.body),
    "call in the clear": Parser(PlainCall.read, (ProtocolAbort,), [PLAIN.body], lambda call: call.body),
    "server": Parser(heard_by_server, (), [advertised()]),
    "client": Parser(heard_by_client, (), [called()]),
    "server in the clear": Parser(
        heard_in_the_clear, (), [upload(np.ones(4, np.float32)), upload(np.full(4, np.nan)), LEAVES],
    ),
    "client in the clear": Parser(heard_in_the_clear_by_a_client, (), [wire.frame(Kind.CALL, PLAIN.context, PLAIN.body)]),
    "list of messages": Parser(protocol.unpack, (ProtocolAbort,), [protocol.pack([b"a", b"", b"bc" * 50])], protocol.pack),
    "version": Parser(of_text(protocol.check_version), (ProtocolAbort,), [b"1", b"2"]),
    # Studies, members, keys.
    "bundle": Parser(Bundle.read, (InvalidInput,), [found.encode() for found in BUNDLES], lambda found: found.encode()),
    "study": Parser(
        of_json(rebuild, InvalidInput), (InvalidInput, Refused), [canonical(found.study) for found in BUNDLES],
        lambda found: canonical(found.to_plain()),
    ),
    "schema": Parser(of_json(schema_of, InvalidInput), (InvalidInput,), [canonical(found.schema) for found in BUNDLES]),
    "roster": Parser(SignedRoster.read, (InvalidInput,), [SIGNED.encode()], lambda found: found.encode()),
    "roster book": Parser(of_file("book.json", lambda path: RosterBook.load(path.parent)), (InvalidInput,), [book()]),
    "invitation": Parser(of_text(JoinToken.decode), (InvalidInput,), [found.encode().encode() for found in TOKENS],
                         lambda found: found.encode().encode()),
    "policy": Parser(of_text(Policy.read), (InvalidInput,), [Policy.example().encode()]),
    "approvals": Parser(of_file("approvals.txt", approved), (InvalidInput,), [b"a" * 64 + b"  # by Ada\n\n# none\n"]),
    "receipts": Parser(lambda data: verify(data.split(b"\n"), KEY.public), (ProtocolAbort,), [receipts()]),
    "identity": Parser(of_file("key", Identity.load), (InvalidInput,), [identity()]),
    "certificate": Parser(of_file("server.crt", pin_of), (InvalidInput,), [certificate()]),
    # Requests and answers.
    "signed headers": Parser(read_headers, (NotAuthorized,), [signed_headers(), signed_headers(b"body")]),
    "token of a person": Parser(
        of_text(People(MemoryStore()).check), (NotAuthorized,), [],
    ),
    "range": Parser(read_range, (), [b"bytes=0-10", b"bytes=199-", b"bytes=200-", b"bytes=5-2", b"bytes=-7", b"lines=1-"]),
    "body of a request": Parser(table, (InvalidInput,), [canonical({"accepted": True, "reason": "yes"})]),
    "texts of a request": Parser(lambda d: texts(d, "name"), (InvalidInput,), [canonical({"name": "ward", "secret": "s"})]),
    "tasks": Parser(told.tasks, (ProtocolAbort,), [canonical(tasks())]),
    "sum": Parser(of_json(lambda v: told.sum(about()["id"], v), ProtocolAbort), (ProtocolAbort,), [canonical(about())]),
    # Arrays.
    "arrays": Parser(decode_arrays, (InvalidInput,), [
        encode_arrays({"model": np.arange(4, dtype=np.float32), "count": np.array(3)}),
        encode_arrays({"x": np.zeros(0, np.int8)}),
    ]),
    "model": Parser(of_file("m.safetensors", lambda path: files.load(path, LAYOUT)), (InvalidInput,), [model_file()]),
}  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Sound bytes with up to three changes: a bit, a cut, an insertion, a piece twice, a run of one byte."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 12))
        kind = draw(st.sampled_from(["flip", "cut", "end", "insert", "twice", "run"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "end":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=12))
        elif kind == "twice":
            data[at:at] = data[at : at + 4 * length]
        else:
            data[at : at + length] = bytes([draw(st.sampled_from([0, 255, 48, 57, 91, 123]))]) * length
    return bytes(data)


def inputs(parser: Parser) -> st.SearchStrategy[bytes]:
    """Any bytes, and many that are nearly sound."""
    near = [mutated(valid) for valid in parser.valid]
    return st.one_of(st.binary(max_size=300), *near, *near, *near) if near else st.binary(max_size=300)


@contextmanager
def bounded() -> Iterator[None]:
    """Raises AssertionError where more memory was taken than a few kilobytes can need."""
    tracemalloc.start()
    try:
        yield
        _, most = tracemalloc.get_traced_memory()
        assert most < MOST_MEMORY, f"{most:,} bytes were taken"
    finally:
        tracemalloc.stop()


def attempt(parser: Parser, data: bytes) -> bool:
    """Whether bytes were taken. Raises what no parser may raise."""
    try:
        found = parser.read(data)
    except parser.errors:
        return False
    if parser.write is not None:
        assert parser.write(found) == data, "what was taken is written otherwise"
    return True
