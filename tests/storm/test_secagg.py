"""Secure aggregation in the storm: a thousand rounds, and planted bugs that it must find."""

from __future__ import annotations

import pytest

from manent.core.parties import Step
from manent.storm import run, scenario
from manent.summation.parties.wire import Kind
from manent.summation.secagg import SecAggClient, SecAggServer

SECAGG = scenario("secagg")


@pytest.mark.slow
def test_a_thousand_rounds_hold_every_invariant() -> None:
    outcome = run(SECAGG, range(1000), workers=2)
    assert outcome.violations() == {}, outcome.failures[:3]
    # The storm did rage, and rounds of every kind came about.
    assert min(outcome.outcomes[kind] for kind in ("done, everyone", "done, some vanished", "aborted")) > 20
    assert all(outcome.met[fault] > 20 for fault in ("dropped", "repeated", "crashes", "response lost", "torn write"))


def found(rounds: int = 150) -> set[str]:
    return set(run(SECAGG, range(rounds)).violations())


def test_a_client_that_forgets_its_secrets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = SecAggClient._keep

    def forgetful(self: SecAggClient, kind: Kind, *parts: bytes) -> Step:
        step = keep(self, kind, *parts)
        return Step((), step.send) if kind is Kind.CALL else step

    monkeypatch.setattr(SecAggClient, "_keep", forgetful)
    assert found() & {"changed message", "error"}


def test_a_server_that_counts_repeated_uploads_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    again = SecAggServer._again

    def counting(self: SecAggServer, position: int, kind: Kind) -> Step:
        if kind is Kind.UPLOAD and self.phase == "upload" and position in self._uploaded:
            self._running._lanes += 1
        return again(self, position, kind)

    monkeypatch.setattr(SecAggServer, "_again", counting)
    assert found() & {"wrong sum", "double", "two sums"}


def test_a_server_that_acknowledges_before_it_keeps_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = SecAggServer.receive

    def hasty(self: SecAggServer, envelope):  # type: ignore[no-untyped-def]
        step = receive(self, envelope)
        return Step((), step.send) if any(e.body[4] == Kind.RECEIVED for e in step.send) else step

    monkeypatch.setattr(SecAggServer, "receive", hasty)
    assert found() & {"lost", "two sums", "wrong sum", "no end", "changed message"}


def test_a_sum_without_one_of_its_survivors_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    survivors = SecAggServer.survivors
    monkeypatch.setattr(SecAggServer, "survivors", property(lambda self: survivors.fget(self)[1:]))  # type: ignore[attr-defined]
    assert "wrong sum" in found(20)
