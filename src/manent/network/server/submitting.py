"""How a study comes to the server, how it is stopped, and what sites decide about it."""

from __future__ import annotations

import logging

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, NotAuthorized, ProtocolAbort
from manent.core.store import Transaction
from manent.network.server.documents import StudyRecord, decision_key, put, study_of
from manent.network.server.plans import plan_of
from manent.network.server.rounds import Rounds
from manent.network.trust.journal import note
from manent.network.wire.bundle import Bundle
from manent.rounds.declared import declared_model, rebuild
from manent.rounds.server import first_state
from manent.storage.arrays import decode_arrays

log = logging.getLogger("manent.server")
MOST_REASON = 2000


def submit(rounds: Rounds, bundle: Bundle, by: str, seed: int, needed: int, initial: bytes = b"") -> str:
    """Queue a study, and return its hash. Repeating it changes nothing.

    Args:
        by: who submits it, for the record.
        seed: of the study's repeatable randomness.
        needed: how many sites must be on the roster before it is planned.
        initial: safetensors with "model", the first vector of a model whose code the server does not run.

    Raises:
        InvalidInput, Refused: for a study that cannot run with so many sites.
        NotAuthorized: for a bundle that is not signed.
    """
    bundle.verify()
    study, plan = rebuild(bundle.study), plan_of(bundle, needed)
    if declared_model(study) is not None and not initial:
        raise InvalidInput("This model's code does not run on the server; send its first vector with the study.")
    if initial:
        first_state(plan, seed, decode_arrays(initial).get("model"))
    digest = rounds.blobs.put([bundle.encode()])
    first = rounds.blobs.put([initial]) if initial else ""
    with rounds.store.transaction() as transaction:
        if study_of(transaction, study.hash) is None:
            rounds.check_there(digest, first)
            number = len(transaction.keys("study/"))
            now = rounds.clock()
            put(transaction, StudyRecord(study.hash, study.name, number, digest, by, seed, needed, now, initial=first))
            note(transaction, now, by, "submit", study.hash, {"name": study.name, "bundle": bundle.hash, "sites": needed})
            log.info("study queued", extra={"study": study.hash, "by": by})
    return study.hash


def stop(rounds: Rounds, hash: str, by: str) -> None:
    """End a study before its time. Repeating it changes nothing.

    Raises:
        InvalidInput: for an unknown study, and one that is over for another reason.
        ProtocolAbort: if the study moved on at each of 100 tries.
    """
    for _ in range(100):
        with rounds.store.snapshot() as view:
            study = study_of(view, hash)
        if study is None or study.over:
            if study is not None and study.reason == _stopped(by):
                return
            raise InvalidInput(f"Study {hash[:16]} is over; there is nothing to stop.")
        rounds.fail(study, _stopped(by), by)  # does nothing if the study has moved on meanwhile
    raise ProtocolAbort(f"Study {hash[:16]} went on each time that it was to be stopped; ask again.")


def _stopped(by: str) -> str:
    return f"Stopped by {by.removeprefix('person:')}."


def decide(rounds: Rounds, hash: str, public: str, accepted: bool, reason: str, roster: int | None = None) -> None:
    """Note a site's decision. A site may change its mind until the study begins; the reason is cut at 2,000 characters.

    Args:
        roster: the number of the roster for which the site has planned the study; None for a site that does not say.

    Raises:
        InvalidInput: for an unknown study.
        NotAuthorized: for a study that is not planned yet, or has been planned for another roster since.
    """
    about = {"accepted": accepted, "reason": reason[:MOST_REASON]}

    def write(transaction: Transaction, _: object) -> None:
        """Write the decision and the row of the audit log."""
        study = study_of(transaction, hash)
        if study is None:
            raise InvalidInput(f"There is no study {hash[:64]!r}.")
        if study.phase == "gathering":
            raise NotAuthorized("This study is not planned yet; a site decides about a plan.")
        if roster is not None and roster != study.roster:
            raise NotAuthorized(f"This study is planned for roster {study.roster} by now; the decision is about roster {roster}.")
        # No other site waits for this, so none is woken.
        transaction.put(decision_key(hash, public), canonical(about))
        note(transaction, rounds.clock(), f"site:{public}", "decide", hash, about)

    rounds.together.run(write)
    log.info("decision", extra={"study": hash, "site": public, "accepted": accepted, "reason": reason[:MOST_REASON]})
