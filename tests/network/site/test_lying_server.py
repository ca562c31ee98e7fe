"""A server that lies to a real site, over TLS: the site refuses, sends no vector, and does not end."""

from __future__ import annotations

import gzip
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import manent as mn
from manent.core.canonical import canonical
from manent.crypto import SigningKey
from manent.network.server.http.app import application
from manent.network.server.submitting import decide, submit
from manent.network.site import connection as connection_module
from manent.network.site.agent import Agent
from manent.network.site.connection import Connection
from manent.network.site.joining import QUICK
from manent.network.site.state import APPROVALS, IDENTITY, Server, SiteState
from manent.network.trust.policy import Policy, approve
from manent.network.trust.roster import SignedRoster
from manent.network.trust.tls import self_signed
from manent.network.wire import protocol
from manent.network.wire.bundle import Bundle
from manent.network.wire.sums import read_call
from manent.summation.parties import wire
from manent.summation.parties.wire import Kind
from manent.summation.secagg import bodies
from tests.network.serving import uvicorn_of
from tests.network.world import World, study_of

SECURE = mn.SecAgg(minimum_cohort=3, dropped=0.2, beacon="server")
EQUAL = mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=2, batch_size=4), weighting="equal")
CENTRAL = [mn.Clip(1.0), mn.CentralNoise(1.0)]
CODE = {"study.py": "import torch\nwidth = 8\n"}
Lie = Callable[[bytes], bytes]


def small(**fields: object) -> mn.Study:
    """A study that the site's policy takes."""
    return study_of(**{"cohort": mn.Cohort(minimum=3), **fields})


class Lying:
    """An application of which some answers are altered on their way, and what it was sent."""

    def __init__(self, app: Any) -> None:
        self.app, self.lies, self.sent = app, dict[str, Lie](), list[bytes]()
        self.packed = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started: list[Any] = []
        answered, posted = bytearray(), bytearray()

        async def heard() -> Any:
            message = await receive()
            posted.extend(message.get("body", b""))
            return message

        async def altered(message: Any) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
                return
            answered.extend(message.get("body", b""))
            if not message.get("more_body"):
                await self._answer(scope, started[0], bytes(answered), send)

        await self.app(scope, heard, altered)
        if scope["method"] == "POST" and scope["path"].endswith("/message"):
            self.sent.append(bytes(posted))

    async def _answer(self, scope: Any, start: Any, body: bytes, send: Any) -> None:
        lies = [lie for path, lie in self.lies.items() if f"{scope['method']} {scope['path']}".startswith(path)]
        if start["status"] in (200, 206):
            for lie in lies:
                body = lie(body)
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        headers += [(b"content-length", str(len(body)).encode())] + [(b"content-encoding", b"gzip")] * self.packed
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body if start["status"] not in (204, 304) else b""})

    def kinds(self) -> set[Kind]:
        """Of messages that a site has sent."""
        return {wire.unframe(body)[0] for body in self.sent}


@dataclass
class Stage:
    """A world whose first site is a real one."""

    world: World
    lying: Lying
    state: SiteState
    agent: Agent
    log: pytest.LogCaptureFixture
    hash: str = ""
    silent: set[int] = field(default_factory=set)

    def submit(self, study: mn.Study, code: dict[str, str] | None = None, pins: tuple[str, ...] = ()) -> Bundle:
        """Queue a study, about which the other sites have nothing to say."""
        bundle = Bundle.of(study, self.world.data.schema, "data", code, pins).sign(self.world.server.signing_key)
        self.hash = submit(self.world.rounds, bundle, "somebody", 0, 4)
        self.world.tick()
        for identity in self.world.identities[1:]:
            decide(self.world.rounds, self.hash, identity.public_hex, True, "")
        return bundle

    def until(self, holds: Callable[[], bool], seconds: float = 25.0) -> None:
        """Let everybody do what they do, until something holds."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"nothing happened; the site said: {self.said}"
            self.world.now = time.time()
            self.world.tick()
            self.world.service.wake()
            record = self.world.sum(self.hash) if self.world.study(self.hash).open else None
            for site in self.world.asked(self.hash) if record and record.state == "open" else ():
                if site and site not in self.silent and self.world.study(self.hash).open:
                    self.world.talk(self.hash, site)
            time.sleep(0.02)

    @property
    def said(self) -> str:
        """What the site has written to its log."""
        return "\n".join(
            f"{r.getMessage()} {getattr(r, 'reason', '')} {r.exc_text or ''}" for r in self.log.records if r.name == "manent.site"
        )

    def hears(self, words: str) -> None:
        self.until(lambda: words in self.said)


@pytest.fixture
def stage(tmp_path, caplog) -> Iterator[Stage]:
    with staged(tmp_path, caplog) as found:
        yield found


@contextmanager
def staged(folder: Path, log: pytest.LogCaptureFixture, rule: str = "none") -> Iterator[Stage]:
    log.set_level(logging.INFO, "manent.site")
    world = World(folder, 4, now=time.time())
    lying = Lying(application(world.service))
    certificate, key, pin = self_signed(folder / "tls", ["127.0.0.1"])
    (folder / "site0").mkdir()
    (folder / "0.key").rename(folder / "site0" / IDENTITY)
    state = SiteState(folder / "site0")
    with uvicorn_of(lying, certificate, key) as origin:
        world.service.origins = (origin,)
        own = world.server.public_hex
        state.put_server(Server(origin, pin, own, own, True))
        text = QUICK.format(server=own, allowed='"SecAgg", "Plain"', data="data")
        text = text.replace('rule = "none"', f'rule = "{rule}"').replace('isolation = "required"', 'isolation = "preferred"')
        agent = Agent(state, Policy.read(text), lambda data: world.data.clients[0])
        over = threading.Event()
        thread = threading.Thread(target=lambda: agent.run(over.is_set))
        thread.start()
        try:
            yield Stage(world, lying, state, agent, log)
            assert thread.is_alive(), "the site has ended"
        finally:
            over.set()
            agent.stop()
            world.service.stop()
            thread.join(60)
            agent.connection.close()


def changed(**values: object) -> Lie:
    """An answer in JSON with other values."""
    return lambda body: canonical({**json.loads(body), **values})


def called(stage: Stage, **terms: object) -> Lie:
    """How a sum stands, with a call of other terms."""

    def lie(body: bytes) -> bytes:
        about = json.loads(body)
        plan = stage.world.rounds.plans.plan(stage.world.study(stage.hash))
        call = read_call(plan, bytes.fromhex(about["call"]))
        return canonical({**about, "call": replace(call, terms=replace(call.terms, **terms)).body.hex()})

    return lie


def of_messages(lie: Lie) -> Lie:
    """What is said in an answer to a message."""
    return lambda body: protocol.pack([lie(message) for message in protocol.unpack(body)])


def lie_in_messages(stage: Stage, lie: Lie) -> None:
    id = stage.world.study(stage.hash).open
    stage.lying.lies[f"GET /v1/sums/{id}/message"] = lie
    stage.lying.lies[f"POST /v1/sums/{id}/message"] = of_messages(lie)


def test_without_a_lie_it_takes_part(stage):
    stage.submit(small(rounds=2, summation=SECURE))
    stage.until(lambda: stage.world.study(stage.hash).over)
    assert stage.world.study(stage.hash).phase == "finished"
    assert {Kind.UPLOAD, Kind.CONSENT, Kind.REVEAL} <= stage.lying.kinds()


# A study that is another than was approved.

TRUE = small(rounds=1)


@pytest.mark.parametrize(
    ("study", "code", "pins"),
    [
        (replace(TRUE, rounds=2), CODE, ("numpy==2.1.3",)),
        (TRUE, {"study.py": CODE["study.py"] + "width = 9\n"}, ("numpy==2.1.3",)),
        (TRUE, {**CODE, "more.py": ""}, ("numpy==2.1.3",)),
        (TRUE, CODE, ("numpy==2.1.4",)),
        (TRUE, CODE, ()),
    ],
    ids=["plain data", "code", "one more file", "a requirement", "no requirement"],
)
def test_what_was_altered_after_approval_waits_for_another_look(tmp_path, caplog, study, code, pins):
    with staged(tmp_path, caplog, "reviewed") as stage:
        approved = Bundle.of(TRUE, stage.world.data.schema, "data", CODE, ("numpy==2.1.3",))
        approve(stage.state.folder / APPROVALS, approved.hash, "Ada")
        altered = stage.submit(study, code, pins)
        assert altered.hash != approved.hash
        stage.until(lambda: stage.state.study(stage.hash) is not None)
        known = stage.state.study(stage.hash)
        assert not known.accepted
        assert "a bundle that a person here approved" in known.reason
        assert stage.world.study(stage.hash).phase == "deciding"
        assert not stage.lying.sent


def test_what_was_approved_is_taken_and_another_code_comes_too_late(tmp_path, caplog):
    with staged(tmp_path, caplog, "reviewed") as stage:
        approved = Bundle.of(replace(TRUE, rounds=3), stage.world.data.schema, "data", CODE)
        approve(stage.state.folder / APPROVALS, approved.hash, "Ada")
        true = stage.submit(replace(TRUE, rounds=3), CODE)
        stage.until(lambda: stage.state.study(stage.hash) is not None)
        assert stage.state.study(stage.hash).accepted
        other = replace(true, code={"study.py": "steal()"}).sign(stage.world.server.signing_key)
        stage.lying.lies[f"GET /v1/studies/{stage.hash}/bundle"] = lambda body: other.encode()
        stage.until(lambda: stage.world.study(stage.hash).over)
        assert stage.state.bundle(stage.hash).hash == approved.hash


def test_another_study_under_the_name_of_one_is_refused(stage):
    true = stage.world.data.schema
    other = Bundle.of(small(rounds=7), true, "data").sign(stage.world.server.signing_key)
    stage.lying.lies["GET /v1/studies/"] = lambda body: other.encode()
    stage.submit(small(rounds=1))
    stage.hears("The server gave another study")
    assert stage.state.study(stage.hash) is None


def test_a_bundle_signed_by_a_stranger_is_refused(stage):
    stranger = SigningKey(bytes([9] * 32))
    stage.lying.lies["GET /v1/studies/"] = lambda body: Bundle.read(body).sign(stranger).encode()
    stage.submit(small(rounds=1))
    stage.until(lambda: stage.state.study(stage.hash) is not None)
    assert "a study by someone whom its policy names" in stage.state.study(stage.hash).reason


# A cohort that is another than the study's.


@pytest.mark.parametrize("summation", [mn.Plain(), SECURE], ids=["Plain", "SecAgg"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 2**32 - 1])
def test_a_false_number_of_clients_is_refused(stage, summation, count):
    stage.lying.lies["GET /v1/sums/"] = lambda body: body if body[:1] != b"{" else called(stage, clients=count, **few)(body)
    few = {"minimum": 1, "enough": 1} if isinstance(summation, mn.Plain) else {}
    stage.submit(small(rounds=2, summation=summation))
    stage.hears(f"The server asks {count} clients; this study asks 4 of 4")
    assert Kind.UPLOAD not in stage.lying.kinds()


@pytest.mark.parametrize(
    ("summation", "terms"),
    [
        (mn.Plain(), {"minimum": 1}),
        (SECURE, {"minimum": 2}),
        (SECURE, {"threshold": 2, "minimum": 2}),
        (SECURE, {"adversary": "curious"}),
        (SECURE, {"suite": 1}),
        (SECURE, {"size": 1}),
    ],
)
def test_other_terms_than_the_studys_are_refused(stage, summation, terms):
    """Survivors fewer than it says, above all."""

    def lie(message: bytes) -> bytes:
        kind, _, body = wire.unframe(message)
        if kind is not Kind.CALL:
            return message
        call = read_call(stage.world.rounds.plans.plan(stage.world.study(stage.hash)), body)
        other = replace(call, terms=replace(call.terms, **terms))
        return wire.frame(kind, other.context, other.body)

    stage.submit(small(rounds=2, summation=summation))
    stage.lying.lies["GET /v1/sums/"] = lambda body: body if body[:1] == b"{" or not body.startswith(b"MSA") else lie(body)
    stage.hears("calls to another terms")
    assert Kind.UPLOAD not in stage.lying.kinds()


# Drop-outs that are hidden, or invented.


@pytest.mark.parametrize(
    ("alive", "consents"),
    [({0, 1, 2, 3}, True), ({0, 1}, False), ({1, 2, 3}, False), ({0}, False)],
    ids=["one that dropped out is said to be there", "too few", "without this site", "alone"],
)
def test_false_survivors_open_nothing(stage, alive, consents):
    """Site 3 drops out with the upload; site 0 is told of others than there are. Its consent alone opens nothing."""
    stage.submit(small(rounds=1, summation=SECURE))
    stage.until(lambda: bool(stage.world.study(stage.hash).open))
    id = stage.world.study(stage.hash).open
    cohort = [key.hex() for key in _cohort(stage)]
    places = {stage.world.by_key[key]: position for position, key in enumerate(cohort)}
    told: list[bytes] = []

    def lie(message: bytes) -> bytes:
        kind, context, body = wire.unframe(message)
        if kind is not Kind.SURVIVORS:
            return message
        said = bodies.bitmap(frozenset(places[site] for site in alive), 4)
        told.append(body)
        return wire.frame(kind, context, said + body[len(said) :])

    lie_in_messages(stage, lie)
    stage.until(lambda: stage.world.sum(stage.hash).phase == "upload")
    stage.silent = {3}
    stage.until(lambda: all(_uploaded(stage, site) for site in (0, 1, 2)))
    stage.world.rounds.act(id, lambda party, _: party.deadline())
    stage.until(lambda: bool(told))
    deadline = time.monotonic() + 2
    stage.until(lambda: time.monotonic() > deadline)
    assert Kind.REVEAL not in stage.lying.kinds()
    assert (Kind.CONSENT in stage.lying.kinds()) == consents


def _cohort(stage: Stage) -> tuple[bytes, ...]:
    record = stage.world.sum(stage.hash)
    with stage.world.store.snapshot() as view:
        roster = stage.world.rounds.rosters.roster(view, record.roster)
        return stage.world.rounds.call(view, record).cohort(roster)


def _uploaded(stage: Stage, site: int) -> bool:
    if site == 0:
        return Kind.UPLOAD in stage.lying.kinds()
    party: Any = stage.world.party(stage.hash, site)
    return party.uploaded_in is not None


# Rosters.


def signed_roster(stage: Stage, number: int, gone: str = "", key: SigningKey | None = None, **dates: int) -> SignedRoster:
    with stage.world.store.snapshot() as view:
        newest = stage.world.service.rosters.signed(view, stage.world.service.rosters.newest(view))
    entries = tuple(entry for entry in newest.entries if entry.name != gone)
    given = {"issued": int(time.time()), "expires": int(time.time()) + 1000, **dates}
    return SignedRoster.sign(key or stage.world.server.signing_key, number, entries=entries, **given)


@pytest.mark.parametrize(
    ("roster", "reason"),
    [
        ({"number": 4, "key": SigningKey(bytes([9] * 32))}, "not by the consortium's key"),
        ({"number": 4, "issued": 1000, "expires": 2000}, "it expired"),
        ({"number": 4, "issued": 2**40, "expires": 2**41}, "in the future"),
    ],
)
def test_a_roster_that_does_not_hold_is_refused(stage, roster, reason):
    found = signed_roster(stage, **roster)
    stage.lying.lies["GET /v1/roster"] = lambda body: found.encode()
    stage.submit(small(rounds=1))
    stage.hears(reason)
    assert stage.state.study(stage.hash) is None


def test_a_roster_with_one_who_has_left_is_refused(stage):
    """The site has seen roster 5, without site 3; then the server goes back to 4."""
    newer, older = signed_roster(stage, 5, gone="site3"), signed_roster(stage, 4)
    stage.state.take_roster(newer, stage.world.server.signing_key.public, time.time())
    stage.lying.lies["GET /v1/roster"] = lambda body: older.encode()
    stage.submit(small(rounds=1))
    stage.hears("names site3, who has left")
    assert stage.state.newest_roster == 5
    assert stage.state.study(stage.hash) is None
    assert not stage.lying.sent


def test_a_smaller_roster_than_the_site_has_planned_for_is_refused(stage, monkeypatch):
    """The server signs rosters itself. It takes one site off, and goes on as if the guarantee were the same."""
    gone: list[int] = []

    def holds(study: Any, plan: Any) -> bool:
        if study.phase == "running" and not gone:
            gone.append(3)
            stage.world.remove(3)
        return True

    monkeypatch.setattr(stage.world.rounds, "_holds", holds)
    monkeypatch.setattr(stage.world.rounds, "_roster", lambda view, *of: stage.world.service.rosters.newest(view))
    stage.silent = {1, 2, 3}
    stage.submit(small(rounds=2, algorithm=EQUAL, layers=CENTRAL))
    stage.hears("planned for 4 sites, and its plan holds for at least 4; the roster has 3")
    assert Kind.UPLOAD not in stage.lying.kinds()


def test_two_rosters_of_one_number_are_refused(stage):
    other = signed_roster(stage, 4, gone="site3")
    stage.state.take_roster(other, stage.world.server.signing_key.public, time.time())
    true = signed_roster(stage, 4)
    with pytest.raises(mn.NotAuthorized, match="another roster of the same number"):
        stage.state.take_roster(true, stage.world.server.signing_key.public, time.time())


# What is no answer at all.


@pytest.mark.parametrize(
    ("path", "lie"),
    [
        ("GET /v1/tasks", lambda body: b""),
        ("GET /v1/tasks", lambda body: b"[]"),
        ("GET /v1/tasks", lambda body: b"[" * 100_000),
        ("GET /v1/tasks", lambda body: b'{"studies": [{}], "sums": [], "roster": 4}'),
        ("GET /v1/tasks", changed(sums=["../../etc/passwd"])),
        ("GET /v1/tasks", changed(sums=[7])),
        ("GET /v1/tasks", changed(studies=[{"hash": "../../identity.key"}])),
        ("GET /v1/studies/", lambda body: b"\x80\x04cos\nsystem\n"),
        ("GET /v1/roster", lambda body: b"{}"),
        ("GET /v1/sums/", changed(assignment="../../../policy.toml")),
    ],
)
def test_nonsense_is_refused_and_the_site_goes_on(stage, path, lie):
    def only_tables(body: bytes) -> bytes:
        return lie(body) if path != "GET /v1/sums/" or body[:1] == b"{" else body

    policy = stage.state.folder / "policy.toml"
    policy.write_text("kept")
    stage.lying.lies[path] = only_tables
    stage.submit(small(rounds=1))
    stage.until(lambda: any(words in stage.said for words in ("refused ", "not taken part", "waits for a roster")))
    assert "Traceback" not in stage.said
    assert policy.read_text() == "kept"
    stage.lying.lies.clear()
    stage.until(lambda: stage.world.study(stage.hash).over)
    assert stage.world.study(stage.hash).phase == "finished"


@pytest.mark.parametrize(
    "lengths",
    [[0, 0], [-1], [10**9], [None], [True], [0, 5, 5], [7, 3]],
    ids=["nothing", "-1", "more", "none", "true", "twice", "back"],
)
def test_an_upload_that_does_not_go_on_ends(monkeypatch, lengths):
    sent, left = [], iter(lengths)

    class Made(Connection):
        def ask(self, method, path, body=b"", query=None):
            sent.append((method, path))
            assert len(sent) < 10, "the site goes on for ever"
            return canonical({"length": next(left)}) if path.endswith("/upload") else protocol.pack([])

    monkeypatch.setattr(protocol, "MOST_MESSAGE", 4)
    monkeypatch.setattr(protocol, "PART", 5)
    with pytest.raises(mn.ProtocolAbort, match="upload"):
        Made("https://127.0.0.1:9", None, SigningKey(bytes([1] * 32))).post("x", b"0123456789")
    assert ("POST", "/v1/sums/x/upload/complete") not in sent


def test_a_bomb_is_not_unpacked(stage):
    stage.lying.packed = True
    stage.lying.lies["GET /v1/tasks"] = lambda body: gzip.compress(bytes(50 << 20))
    stage.submit(small(rounds=1))
    stage.hears("a site decompresses nothing")
    stage.lying.packed = False
    stage.lying.lies.clear()
    stage.until(lambda: stage.world.study(stage.hash).over)


def test_an_answer_without_end_is_cut_off(stage, monkeypatch):
    monkeypatch.setattr(connection_module, "MOST_ANSWER", 1 << 20)
    stage.lying.lies["GET /v1/tasks"] = lambda body: body + b" " * (2 << 20)
    stage.submit(small(rounds=1))
    stage.hears("has more than 1,048,576 bytes")


def test_a_model_without_end_fills_no_disk(stage):
    stage.lying.lies["GET /v1/sums/"] = lambda body: body if body[:1] == b"{" or body[:3] == b"MSA" else body + bytes(8 << 20)
    stage.submit(small(rounds=1))
    stage.hears("The server's answer has more than")
    kept = [path.stat().st_size for path in (stage.state.folder / "assignments").glob("*")]
    assert sum(kept) < 4 << 20
