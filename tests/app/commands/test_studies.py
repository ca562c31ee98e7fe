"""`manent studies`, against a server over TLS."""

from __future__ import annotations

import json

import httpx
import pytest
from safetensors.numpy import load_file

import manent as mn
from manent.app.commands.studies.asking import sum_line
from manent.network.researcher import Researcher
from manent.network.server.http.app import application
from manent.network.server.submitting import decide
from manent.network.trust.identity import Identity
from manent.network.trust.people import People
from manent.network.trust.tls import self_signed
from manent.storage import open_store
from tests.app.program import manent, write
from tests.network.serving import uvicorn_of
from tests.network.world import World


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A server with four sites on its roster, and a researcher whose environment names it."""
    monkeypatch.chdir(tmp_path)
    found = World(tmp_path, 4, store=open_store(tmp_path / "server.db"))
    certificate, key, pin = self_signed(tmp_path / "tls", ["127.0.0.1"])
    with uvicorn_of(application(found.service), certificate, key) as origin:
        monkeypatch.setenv("MANENT_SERVER", origin)
        monkeypatch.setenv("MANENT_PIN", pin)
        monkeypatch.setenv("MANENT_TOKEN", People(found.store).create("alice", "researcher"))
        yield found


def submitted(world, tmp_path):
    done = manent("studies", "submit", write(tmp_path), "--set", "rounds=2")
    assert done.exit_code == 0, done.stderr
    (one,) = json.loads(manent("studies", "list", "--json").stdout)
    world.tick()
    return one["hash"], done.stdout


def test_from_submission_to_result(world, tmp_path):
    hash, said = submitted(world, tmp_path)
    assert hash[:16] in said
    assert Identity.load(tmp_path / "researcher.key").public_hex in said
    assert (tmp_path / "researcher.key").stat().st_mode & 0o077 == 0
    again = manent("studies", "submit", tmp_path / "study.py", "--set", "rounds=2")
    assert (again.exit_code, hash[:16] in again.stdout) == (0, True)  # the same study, by the same key
    for identity in world.identities[:3]:
        decide(world.rounds, hash, identity.public_hex, True, "")
    decide(world.rounds, hash, world.identities[3].public_hex, False, "not \x1b[31mnow")
    shown = manent("studies", "show", hash[:8]).stdout
    assert "site0: takes part" in shown
    assert "site3: refuses: not  [31mnow" in shown  # nothing in it drives a terminal
    assert "sites are asked" not in shown
    decide(world.rounds, hash, world.identities[3].public_hex, True, "")
    world.tick(3)
    shown = manent("studies", "show", hash[:8]).stdout
    assert "'train' of round 1: 4 sites are asked, phase 'upload' until 15 January, 08:01:40 UTC" in shown
    assert "attempt" not in shown
    world.run(hash)
    assert "finished" in manent("studies", "list").stdout
    assert "server" in manent("studies", "statement", hash[:8]).stdout
    rows = [json.loads(line) for line in manent("studies", "history", hash[:8]).stdout.splitlines()]
    assert [row["round"] for row in rows] == [1, 2]
    assert manent("studies", "result", hash[:8], "-o", "model.safetensors").exit_code == 0
    expected = world.result(hash)
    found = load_file(tmp_path / "model.safetensors")
    assert set(found) == set(expected)
    assert all((found[name] == expected[name]).all() for name in expected)
    over = manent("studies", "result", hash[:8], "-o", "model.safetensors")
    assert (over.exit_code, "not overwritten" in over.stderr) == (2, True)


@pytest.mark.parametrize("wrong", [{}, {"closes": "soon"}, {"closes": 10**30}, {"count": None}, {"round": "\x1b[2J"}])
def test_a_sum_that_does_not_fit_is_said_to_be_so(wrong):
    sum = {"name": "train", "round": 2, "index": 0, "attempt": 3, "phase": "called", "count": 4, "closes": 1_800_000_000}
    assert "attempt 3, as too few answered before" in sum_line(sum)
    with pytest.raises(mn.ProtocolAbort, match="does not fit"):
        sum_line({**sum, **wrong} if wrong else {})


def test_a_study_is_stopped(world, tmp_path):
    hash, _ = submitted(world, tmp_path)
    assert manent("studies", "stop", hash[:8]).exit_code == 0
    assert "failed" in manent("studies", "list").stdout
    assert "Stopped by alice" in manent("studies", "show", hash[:8]).stdout


def test_what_is_wrong_is_said(world, tmp_path, monkeypatch):
    assert "no study that you may see" in manent("studies", "list").stdout
    nothing = manent("studies", "show", "abc")
    assert (nothing.exit_code, "No studies" in nothing.stderr) == (2, True)
    early = submitted(world, tmp_path)[0]
    result = manent("studies", "result", early[:8])
    assert (result.exit_code, "not finished" in result.stderr) == (2, True)
    for name, value, said in [
        ("MANENT_TOKEN", "", "MANENT_TOKEN"),
        ("MANENT_TOKEN", "manent-token-1.a.b", "token"),
        ("MANENT_TOKEN", "two words", "one word"),
        ("MANENT_PIN", "00" * 32, "pin"),
        ("MANENT_PIN", "0", "pin"),
        ("MANENT_SERVER", "http://127.0.0.1:1", "https"),
        ("MANENT_SERVER", "https://127.0.0.1:1", "cannot be reached"),
    ]:
        with monkeypatch.context() as other:
            other.setenv(name, value)
            failed = manent("studies", "list")
            assert failed.exit_code in (1, 2), name
            assert said in failed.stderr.replace("\n", " "), (name, failed.stderr)


def answering(response):
    return Researcher("https://server.test", "token", transport=httpx.MockTransport(lambda _: response()))


def test_a_result_that_was_altered_is_not_kept(tmp_path):
    researcher = answering(lambda: httpx.Response(200, headers={"ETag": '"' + "0" * 64 + '"'}, stream=httpx.ByteStream(b"other")))
    with pytest.raises(mn.ProtocolAbort, match="altered"):
        researcher.result("a" * 64, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"studies": 1}', b'{"studies": [{"hash": 1}]}'])
def test_a_server_that_is_none_is_found_out(content):
    with pytest.raises(mn.ProtocolAbort):
        answering(lambda: httpx.Response(200, stream=httpx.ByteStream(content))).studies()
