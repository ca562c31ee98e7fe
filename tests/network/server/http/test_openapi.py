"""The server's description of itself: it names every route, and whatever is asked, the answers are as it says."""

from __future__ import annotations

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed; it comes with the packages for development")

from tests.network.fuzzing import Counts, Fuzzed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


@pytest.fixture(scope="module")
def fuzzed(folder):
    with Fuzzed(folder / "sound").served() as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def _folders(folder):
    for name in ("sound", "false"):
        (folder / name).mkdir()


def test_every_route_is_in_it(fuzzed):
    described = fuzzed.client.get(f"{fuzzed.origin}/openapi.json").json()
    assert described == fuzzed.described
    assert described["openapi"].startswith("3.")
    assert set(fuzzed.operations) >= {"GET /health", "POST /v1/join", "PUT /v1/sums/{id}/upload", "POST /v1/studies"}
    assert len(fuzzed.operations) == 24
    for path, operations in described["paths"].items():
        for method, one in operations.items():
            assert "422" not in one["responses"], path
            assert ("requestBody" in one) == (method in ("post", "put") and not path.endswith("/stop")), path
            assert one["summary"]


@pytest.mark.slow
def test_no_request_makes_an_error_or_an_answer_that_is_not_described(fuzzed):
    for name in fuzzed.operations:
        counts = Counts()
        fuzzed.asks(name, 8, counts)
        assert counts.requests > 0
        assert (counts.server_errors, counts.schema_violations) == (0, 0), counts.told[0]


def test_the_askers_get_past_the_door(fuzzed):
    """Else what is behind it would not be tried."""
    for name, who in (("GET /v1/tasks", "site"), ("GET /v1/studies/{hash}", "viewer"), ("GET /v1/sums/{id}", "site")):
        counts = Counts()
        fuzzed.asks(name, 30, counts, who)
        assert counts.statuses[200] > 0, counts


def test_a_description_that_is_false_is_found_out(folder):
    def change(described):
        described["paths"]["/v1/server"]["get"]["responses"]["200"]["content"]["application/json"]["schema"] = {"type": "array"}
        del described["paths"]["/v1/tasks"]["get"]["responses"]["403"]
        described["paths"]["/metrics"]["get"]["responses"]["200"]["content"] = {"application/json": {}}

    with Fuzzed(folder / "false").served(change) as fuzzed:
        for name in ("GET /v1/server", "GET /v1/tasks", "GET /metrics"):
            counts = Counts()
            fuzzed.asks(name, 3, counts, "administrator" if name == "GET /metrics" else "nobody")
            assert counts.schema_violations > 0, name
