"""The server's routes, called in this process: who may ask what, and what a stranger gets."""

from __future__ import annotations

from hashlib import sha256

import httpx
import pytest
from fastapi.testclient import TestClient

import manent as mn
from manent.core.canonical import canonical
from manent.core.errors import InvalidInput
from manent.core.parties import SERVER, Envelope
from manent.network.server.http.app import application
from manent.network.server.submitting import decide
from manent.network.server.sweeping import Sweeper
from manent.network.trust.journal import AuditLog
from manent.network.trust.signing import sign_request
from manent.network.wire.bundle import Bundle
from manent.network.wire.protocol import pack
from tests.network.world import URL, World, study_of


class Asking:
    """Requests signed by a site."""

    def __init__(self, world: World):
        self.client = TestClient(application(world.service), base_url=URL)
        self.world = world

    def __call__(self, site, method, path, body=b"", **headers):
        request = self.client.build_request(method, URL + path, content=body, headers=headers)
        if site is not None:
            sign_request(request, self.world.identities[site].signing_key, self.world.now)
        return self.client.send(request)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, 8)


@pytest.fixture
def ask(world):
    return Asking(world)


def test_health_is_for_everyone_and_metrics_for_the_operator(world, ask):
    """Requests to sums are counted, and would tell how many sites a secret cohort has."""
    assert ask(None, "GET", "/health").json() == {"status": "ok"}
    assert ask(None, "GET", "/ready").json()["ready"] is True
    tokens = {role: world.service.people.create(role, role) for role in ("viewer", "researcher", "administrator")}
    for role in ("viewer", "researcher"):
        assert ask(None, "GET", "/metrics", Authorization=f"Bearer {tokens[role]}").status_code == 403
    assert [ask(site, "GET", "/metrics").status_code for site in (None, 0)] == [403, 403]
    text = ask(None, "GET", "/metrics", Authorization=f"Bearer {tokens['administrator']}").text
    assert 'manent_requests_total{route="GET /health",status="200"} 1.0' in text
    assert "manent_sites 8.0" in text


def test_a_site_sees_its_tasks(world, ask):
    hash = world.submit(study_of(cohort=mn.Cohort(size=3, minimum=2)))
    world.tick()
    told = ask(0, "GET", "/v1/tasks").json()
    assert [(study["hash"], study["decided"]) for study in told["studies"]] == [(hash, False)]
    for site in range(8):
        assert ask(site, "POST", f"/v1/studies/{hash}/decision", canonical({"accepted": True, "reason": ""})).status_code == 200
    world.tick(3)
    asked = world.asked(hash)
    for site in range(8):
        assert ask(site, "GET", "/v1/tasks").json()["sums"] == ([world.study(hash).open] if site in asked else [])


def test_who_is_not_in_the_cohort_gets_nothing_of_a_sum(world, ask):
    hash = world.begin(study_of(cohort=mn.Cohort(size=3)))
    inside = world.asked(hash)[0]
    outside = next(site for site in range(8) if site not in world.asked(hash))
    id = world.study(hash).open
    for method, path in [
        ("GET", ""),
        ("GET", "/message"),
        ("GET", "/assignment"),
        ("POST", "/message"),
        ("GET", "/upload"),
        ("PUT", "/upload?offset=0"),
        ("POST", "/upload/complete"),
    ]:
        assert ask(outside, method, f"/v1/sums/{id}{path}").status_code == 403
        assert ask(None, method, f"/v1/sums/{id}{path}").status_code == 403
    assert ask(inside, "GET", f"/v1/sums/{id}").json()["state"] == "open"
    whole = ask(inside, "GET", f"/v1/sums/{id}/assignment").content
    rest = ask(inside, "GET", f"/v1/sums/{id}/assignment", Range="bytes=10-")
    assert (rest.status_code, rest.content) == (206, whole[10:])
    assert ask(inside, "GET", f"/v1/sums/{id}/assignment", Range="bytes=999999-").status_code == 416


def test_an_unknown_id_is_no_error_of_the_server(ask):
    for path in ("/v1/sums/..%2F..%2Fetc", "/v1/sums/x/message", "/v1/studies/none/bundle", "/v1/studies/none/model"):
        assert ask(0, "GET", path).status_code in (400, 404)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"accepted": 1}', b"\xff", b"[" * 10_000])
def test_a_malformed_body_is_refused(world, ask, body):
    hash = world.submit(study_of())
    assert ask(0, "POST", f"/v1/studies/{hash}/decision", body).status_code == 400


def test_a_body_that_is_too_large_is_refused(world, ask):
    hash = world.begin(study_of())
    id = world.study(hash).open
    assert ask(0, "POST", f"/v1/sums/{id}/message", bytes(5 << 20)).status_code == 400
    assert ask(0, "PUT", f"/v1/sums/{id}/upload?offset=0", bytes(10_000)).status_code == 400
    assert ask(0, "PUT", f"/v1/sums/{id}/upload?offset=-1", b"x").status_code == 400


def test_an_upload_in_parts_counts_like_one_in_a_piece(world, ask):
    study = study_of(rounds=1)
    hash = world.begin(study)
    id, party = world.study(hash).open, world.party(hash, 0)
    party.receive(Envelope(SERVER, party.name, world.rounds.message(id, party.name)))
    (envelope,) = party.contribute(world.vector(hash, 0)).send
    message = envelope.body
    assert ask(0, "PUT", f"/v1/sums/{id}/upload?offset=0", message[:20]).json() == {"length": 20}
    assert ask(0, "PUT", f"/v1/sums/{id}/upload?offset=30", message[30:]).status_code == 400
    assert ask(0, "GET", f"/v1/sums/{id}/upload").json() == {"length": 20}
    assert ask(0, "PUT", f"/v1/sums/{id}/upload?offset=20", message[20:]).status_code == 200
    done = canonical({"digest": sha256(message).hexdigest()})
    assert ask(0, "POST", f"/v1/sums/{id}/upload/complete", done).status_code == 200
    assert world.history(hash) == []
    for site in range(1, 8):
        world.talk(hash, site)
    world.tick(2)
    assert world.history(hash)[0]["answers"] == 8


def test_an_upload_with_another_digest_is_discarded(world, ask):
    hash = world.begin(study_of(rounds=1))
    id = world.study(hash).open
    ask(0, "PUT", f"/v1/sums/{id}/upload?offset=0", b"something")
    assert ask(0, "POST", f"/v1/sums/{id}/upload/complete", canonical({"digest": "0" * 64})).status_code == 400
    assert ask(0, "GET", f"/v1/sums/{id}/upload").json() == {"length": 0}


def test_a_repeated_or_altered_request_is_refused(world, ask):
    request = ask.client.build_request("GET", f"{URL}/v1/tasks")
    sign_request(request, world.identities[0].signing_key, world.now)
    assert ask.client.send(request).status_code == 200
    assert ask.client.send(request).status_code == 403
    altered = httpx.Request("GET", f"{URL}/v1/tasks?wait=1", headers=request.headers)
    assert ask.client.send(altered).status_code == 403
    stranger = ask.client.build_request("GET", f"{URL}/v1/tasks")
    sign_request(stranger, world.server.signing_key, world.now)
    assert ask.client.send(stranger).status_code == 403


def test_versions_one_apart_understand_each_other(ask):
    assert ask(0, "GET", "/v1/tasks", **{"Manent-Version": "2"}).status_code == 200
    refused = ask(0, "GET", "/v1/tasks", **{"Manent-Version": "3"})
    assert refused.status_code == 409
    assert "Update manent" in refused.json()["error"]
    assert refused.headers["Manent-Version"] == "1"


def test_blobs_that_nobody_names_are_swept(world):
    hash = world.begin(study_of(rounds=1))
    orphan = world.service.blobs.put([b"noise of a process that died"])
    sweeper = Sweeper(world.store, world.service.blobs, world.rounds.parties)
    assert sweeper.sweep(0.0) == sweeper.sweep(899.0) == 0
    assert sweeper.sweep(901.0) >= 1
    with pytest.raises(InvalidInput, match="no blob"):
        world.service.blobs.size(orphan)
    assert world.run(hash).phase == "finished"


def test_people_submit_and_see_what_they_may(world, ask):
    people = world.service.people
    tokens = {role: people.create(role, role) for role in ("viewer", "researcher", "administrator")}
    tokens["other"] = people.create("other", "researcher")

    def call(who, method, path, body=b""):
        headers = {} if who is None else {"Authorization": f"Bearer {tokens[who]}"}
        return ask.client.request(method, path, content=body, headers=headers)

    bundle = Bundle.of(study_of(rounds=1), world.data.schema, "data").sign(world.identities[0].signing_key)
    body = pack([bundle.encode()])
    assert [call(who, "POST", "/v1/studies?sites=8", body).status_code for who in (None, "viewer")] == [403, 403]
    hash = call("researcher", "POST", "/v1/studies?sites=8", body).json()["hash"]
    assert hash == bundle.study_hash
    world.tick()
    for identity in world.identities:
        decide(world.rounds, hash, identity.public_hex, True, "")
    world.tick(3)
    world.run(hash)
    seen = {who: call(who, "GET", f"/v1/studies/{hash}").status_code for who in (None, *tokens)}
    assert seen == {None: 403, "viewer": 200, "researcher": 200, "administrator": 200, "other": 403}
    models = {who: call(who, "GET", f"/v1/studies/{hash}/result").status_code for who in tokens}
    assert models == {"viewer": 403, "researcher": 200, "administrator": 200, "other": 403}
    assert len(call("viewer", "GET", f"/v1/studies/{hash}/history").json()["history"]) == 1
    assert "only the total" not in call("viewer", "GET", f"/v1/studies/{hash}/statement").json()["text"]
    assert call("other", "GET", "/v1/studies").json() == {"studies": []}
    assert call("researcher", "POST", "/v1/studies?sites=8", b"nonsense").status_code in (400, 409)
    people.revoke("researcher")
    assert call("researcher", "GET", f"/v1/studies/{hash}").status_code == 403


def test_the_audit_log_has_what_happened(world, ask):
    hash = world.begin(study_of(rounds=1))
    world.run(hash)
    ask(None, "GET", "/v1/tasks")
    log = AuditLog(world.store)
    assert log.verify() >= 8 + 1 + 8 + 1 + 1
    assert {row["action"] for row in log.rows()} == {"join", "roster", "submit", "decide", "release", "refused"}
