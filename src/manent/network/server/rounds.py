"""The round service: it takes studies from sum to sum. Each step is one transaction that first reads how things stand.

Several processes may run it on one store. If two take the same step, the second finds it taken and does nothing: what it has
computed, above all noise, is thrown away unseen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, ManentError, NotAuthorized, ProtocolAbort, Refused
from manent.core.parties import AnyCall, Read, ServerParty, Step
from manent.core.randomness import PrivateRandom
from manent.core.store import Snapshot, Store, Transaction
from manent.crypto import SystemRandom
from manent.network.server import documents
from manent.network.server.closing import Ending, closed_frame, ended, nobody
from manent.network.server.documents import StudyRecord, SumRecord, SumState, history_log, put, study_of, sum_of
from manent.network.server.parties import Held, Parties
from manent.network.server.plans import Plans
from manent.network.server.rosters import Rosters
from manent.network.server.sweeping import named
from manent.network.trust.journal import note
from manent.network.wire.sums import StudySum, asked, check_roster, draw_asked, draw_members, make_call, read_call, server_party
from manent.privacy.check import Plan
from manent.rounds.server import assignment_of, first_state, result_of
from manent.rounds.spending import all_released
from manent.rounds.state import State
from manent.storage.arrays import array_pieces, decode_arrays
from manent.storage.blobs import Blobs, Parts
from manent.storage.together import Together

log = logging.getLogger("manent.server")
Act = Callable[[ServerParty, SumRecord], Step]


@dataclass(frozen=True)
class Settings:
    """How the server runs studies. All times are in seconds.

    Attributes:
        work: length of the phase in which clients compute and upload.
        phase: length of every other phase.
        deciding: how long sites have to decide about a study, once it is planned.
        retry: pause before a sum that found too few clients is attempted again; it doubles each time, up to `work`.
        grace: how long a process that has just started gives clients to come back, before it closes what is overdue.
        running: how many studies run at a time.
    """

    work: float = 3600.0
    phase: float = 120.0
    deciding: float = 86400.0
    retry: float = 5.0
    grace: float = 30.0
    running: int = 4


class Rounds:
    """Runs every study of a store.

    Args:
        clock: seconds since the epoch.
        random: source of the server's noise; never seeded outside tests.
    """

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        rosters: Rosters,
        clock: Callable[[], float],
        settings: Settings | None = None,
        random: PrivateRandom | None = None,
    ) -> None:
        self.store, self.blobs, self.rosters, self.clock = store, blobs, rosters, clock
        self.parts, self.together = Parts(blobs), Together(store)
        self.settings, self.random = settings or Settings(), random or SystemRandom()
        self.plans, self.parties = Plans(blobs), Parties(blobs)
        self.began = clock()
        self._cohorts: dict[tuple[str, str], frozenset[str]] = {}

    # Steps that are due by time.

    def tick(self) -> None:
        """Take every step that is due. A study that cannot go on fails with its reason, and does not hold up the others."""
        with self.store.snapshot() as view:
            found = [study for study in documents.studies(view) if not study.over]
        for study in found:
            try:
                self._advance(study)
            except (Refused, InvalidInput) as error:
                self.fail(study, str(error))
            except ManentError as error:  # of the store or the disk, which may recover
                log.error("a step of a study failed: %s", error, extra={"study": study.hash})

    def _advance(self, study: StudyRecord) -> None:
        if study.phase == "gathering":
            self._gather(study)
        elif study.phase == "deciding":
            self._decide(study)
        elif study.phase == "running" and study.open:
            self.advance_sum(study.open)
        elif study.phase == "running":
            self.open_sum(study)

    def fail(self, study: StudyRecord, reason: str, by: str = "server") -> None:
        """End a study that cannot go on, or that somebody stops. Does nothing if the study has changed since it was read."""
        with self.store.transaction() as transaction:
            if study_of(transaction, study.hash) != study:
                return
            record = sum_of(transaction, study.open)
            if record is not None:
                closed = closed_frame(self.call(transaction, record), False).hex()
                put(transaction, replace(record, state="abandoned", reason=reason, closed=closed))
            put(transaction, replace(study, phase="failed", open="", reason=reason, since=self.clock()))
            note(transaction, self.clock(), by, "fail" if by == "server" else "stop", study.hash, {"reason": reason})
        log.warning("study failed: %s", reason, extra={"study": study.hash, "reason": reason})

    def _gather(self, study: StudyRecord) -> None:
        """Once enough sites are on the roster, plan the study for all of them, and ask each for its decision."""
        with self.store.transaction() as transaction:
            now = study_of(transaction, study.hash)
            members = len(self.rosters.members(transaction))
            if now is not None and now.phase == "gathering" and members >= now.needed:
                planned = replace(now, phase="deciding", clients=members, roster=self.rosters.newest(transaction))
                put(transaction, replace(planned, reason="", since=self.clock()))

    def _gather_anew(self, study: StudyRecord, reason: str) -> None:
        """Plan a study anew of which no sum has been opened: what sites have decided was about a plan that does not hold now."""
        with self.store.transaction() as transaction:
            if study_of(transaction, study.hash) != study:
                return
            for key in transaction.keys(documents.decision_key(study.hash, "")):
                transaction.remove(key)
            put(transaction, replace(study, phase="gathering", clients=0, roster=0, reason=reason, since=self.clock()))
            note(transaction, self.clock(), "server", "plan anew", study.hash, {"reason": reason})
        log.warning("study is planned anew: %s", reason, extra={"study": study.hash, "reason": reason})

    def _holds(self, study: StudyRecord, plan: Plan) -> bool:
        """Whether the plan of a study, of which no sum is open, holds for the sites that there are; else it is planned anew.

        Raises Refused where a sum of it has been opened before: sites have planned it, and do not decide again.
        """
        try:
            with self.store.snapshot() as view:
                self._roster(view, study, plan)
        except Refused as error:
            if (study.round, study.index) != (1, 0):
                raise
            self._gather_anew(study, str(error))
            return False
        return True

    def _roster(self, view: Snapshot, study: StudyRecord, plan: Plan) -> int:
        """The number of the roster for the study's next sum: the newest; or the one that it was planned for, where the plan does
        not hold for the newest, and everyone on that one is still there. Raises Refused where neither will do.
        """
        number = self.rosters.newest(view)
        try:
            check_roster(plan, len(self.rosters.roster(view, number).identities))
        except Refused:
            planned = self.rosters.signed(view, study.roster).names
            if not planned.items() <= self.rosters.members(view).items():
                raise
            return study.roster
        return number

    def _decide(self, study: StudyRecord) -> None:
        """Begin once every site has decided or its time is over; fail if too few take part."""
        plan = self.plans.plan(study)
        if not self._holds(study, plan):
            return
        with self.store.snapshot() as view:
            members = self.rosters.members(view)
            decided = {public: of for public, of in documents.decisions(view, study.hash).items() if public in members}
            room = sum(other.phase == "running" for other in documents.studies(view)) < self.settings.running
        accepted = [public for public, (yes, _) in decided.items() if yes]
        refused = [f"{members[public]}: {reason}" for public, (yes, reason) in sorted(decided.items()) if not yes]
        waiting = len(members) - len(decided)
        late = self.clock() >= study.since + self.settings.deciding
        # A secret cohort may be empty and has no minimum, and its history would not tell that nobody ever took part.
        needed = max(1, plan.gathering.minimum)
        if len(accepted) + waiting < needed or (late and len(accepted) < needed):
            why = f"{len(accepted)} of {len(members)} sites take part; at least {needed} {'is' if needed == 1 else 'are'} needed."
            self.fail(study, " ".join([why, *refused]))
        elif room and (late or not waiting):
            self._begin(study, plan)

    def _begin(self, study: StudyRecord, plan: Plan) -> None:
        """Let a study run, if there is room for it."""
        initial = b"".join(self.blobs.read(study.initial)) if study.initial else None
        vector = None if initial is None else decode_arrays(initial).get("model")
        state = self.blobs.put(first_state(plan, study.seed, vector).pieces())
        with self.store.transaction() as transaction:
            running = sum(other.phase == "running" for other in documents.studies(transaction))
            if running < self.settings.running and study_of(transaction, study.hash) == study:
                self.check_there(state)
                put(transaction, replace(study, phase="running", state=state, since=self.clock()))

    # One sum.

    def open_sum(self, study: StudyRecord) -> None:
        """Begin the study's next sum, or finish the study if there is none."""
        plan, state = self.plan_and_state(study)
        if all_released(plan, study.released):
            raise Refused(f"The study accounts {study.released} releases, and that many were made.")
        assignment = assignment_of(plan, state, study.round, study.index)
        if assignment is None:
            self._put_if(study, self._finished(study, plan, state))
            return
        if not self._holds(study, plan):
            return
        with self.store.snapshot() as view:
            number = self._roster(view, study, plan)
            roster = self.rosters.roster(view, number)
            count = draw_asked(plan, len(roster.identities), self.random)
        if count < max(1, plan.gathering.minimum):
            self._end(study, None, nobody(plan, study, state, assignment.sum, count, self.random))
            return
        digest = self.blobs.put(array_pieces(assignment.arrays))
        id, now = f"{study.hash}-{study.round}-{study.index}", self.clock()
        of = (id, study.hash, assignment.sum, study.round, study.index)
        members = tuple(key.hex() for key in draw_members(plan, roster, count, self.random))
        record = SumRecord(*of, 1, "", count, number, digest, "", 0.0, now, cohort=members)
        with self.store.transaction() as transaction:
            if study_of(transaction, study.hash) == study:  # else another process was quicker
                self.check_there(digest)
                self._call(transaction, plan, record, self.random.bytes(32))
                put(transaction, replace(study, open=id))

    def _put_if(self, study: StudyRecord, after: StudyRecord) -> None:
        """Write a study unless it has changed since it was read."""
        with self.store.transaction() as transaction:
            if study_of(transaction, study.hash) == study:
                self.check_there(after.result)
                put(transaction, after)

    def _call(self, transaction: Transaction, plan: Plan, record: SumRecord, beacon: bytes) -> None:
        """Write a sum with the call of its present attempt."""
        roster = self.rosters.roster(transaction, record.roster)
        sum = StudySum(record.name, record.index, record.round, bytes.fromhex(record.assignment))
        call = make_call(plan, sum, record.attempt, record.count, roster, beacon)
        phase = call.first_phase
        put(transaction, replace(record, call=call.body.hex(), phase=phase, closes=self._closes(phase), opened=self.clock()))

    def _closes(self, phase: str) -> float:
        return self.clock() + (self.settings.work if phase == "upload" else self.settings.phase)

    def advance_sum(self, id: str) -> None:
        """Close a phase whose time is over; release or abandon a sum whose party has finished."""
        with self.store.snapshot() as view:
            record = sum_of(view, id)
            if record is None or record.state != "open":
                return
            with ExitStack() as until:
                party = self._party(view, record, until).party
        if not party.finished and self._overdue(record):
            self.act(id, lambda party, record: party.deadline() if self._overdue(record) else Step())
        if party.finished:
            self._close(record, party)

    def _overdue(self, record: SumRecord) -> bool:
        now = self.clock()
        return now >= record.closes and now >= self.began + self.settings.grace

    def act(self, id: str, act: Act, stored: str | None = None) -> Step:
        """Let a sum's party act, and store what it asks to keep. Does nothing if the sum is over.

        Args:
            act: either raises and changes nothing, or returns what the party did.
            stored: digest of the message, if it is a blob already.
        """
        return self.together.run(lambda transaction, until: self._act(transaction, until, id, act, stored))

    def _act(self, transaction: Transaction, until: ExitStack, id: str, act: Act, stored: str | None) -> Step:
        record = self.record(transaction, id)
        if record.state != "open":
            return Step()
        self.check_there(stored or "")
        held = self._party(transaction, record, until)
        was, notes = held.party.phase, len(held.party.notes)
        found = act(held.party, record)
        try:
            self.parties.keep(transaction, record, held, found, stored)
            if held.party.phase != was:
                phase = held.party.phase
                put(transaction, replace(record, phase=phase, closes=self._closes(phase)))
        except ManentError as error:  # the party in memory has moved on: undo the steps of all others in this transaction too
            raise RuntimeError(str(error)) from error
        for reason in held.party.notes[notes:]:
            log.info("not taken in", extra={"sum": id, "reason": reason})
        return found

    def _party(self, view: Snapshot, record: SumRecord, until: ExitStack) -> Held:
        """A sum's party, brought up to date. Nobody else uses it until the stack is left."""
        while True:
            held = self.parties.held(record, lambda read: self._make_party(view, record, read))
            until.enter_context(self.parties.kept(record.id, held))
            if held.sound:
                self.parties.catch_up(view, record, held)
                return held

    def record(self, view: Snapshot, id: str) -> SumRecord:
        """A sum by its id. Raises InvalidInput for an unknown one."""
        found = sum_of(view, id)
        if found is None:
            raise InvalidInput(f"There is no sum {id[:100]!r}.")
        return found

    def call(self, view: Snapshot, record: SumRecord) -> AnyCall:
        """A sum's present call. Raises InvalidInput for a sum without a study."""
        return read_call(self._plan(view, record), bytes.fromhex(record.call))

    def _plan(self, view: Snapshot, record: SumRecord) -> Plan:
        study = study_of(view, record.study)
        if study is None:
            raise InvalidInput(f"Sum {record.id} belongs to no study.")
        return self.plans.plan(study)

    def _make_party(self, view: Snapshot, record: SumRecord, read: Read) -> ServerParty:
        """The party of a sum's present attempt, before anything of its log."""
        call, roster = self.call(view, record), self.rosters.roster(view, record.roster)
        members = tuple(bytes.fromhex(key) for key in record.cohort)
        return server_party(self._plan(view, record), call, roster, (), read, members)

    def cohort(self, view: Snapshot, record: SumRecord) -> frozenset[str]:
        """The public keys of the sites that a sum asks."""
        key = record.id, record.call
        if key not in self._cohorts:
            if len(self._cohorts) > 100:
                self._cohorts.clear()
            call = self.call(view, record)
            found = () if call.secret else call.cohort(self.rosters.roster(view, record.roster))
            self._cohorts[key] = frozenset(record.cohort if call.secret else (public.hex() for public in found))
        return self._cohorts[key]

    def message(self, id: str, name: str) -> bytes | None:
        """What a member of the cohort needs now, or None. Raises NotAuthorized for anyone else."""
        with self.store.snapshot() as view:
            record = self.record(view, id)
            if name not in self.cohort(view, record):
                raise NotAuthorized(f"Sum {id} does not ask this site.")
            if record.state != "open":
                return bytes.fromhex(record.closed)
            with ExitStack() as until:
                party = self._party(view, record, until).party
                return None if party.finished else party.message(name)

    # The end of a sum.

    def _close(self, record: SumRecord, party: ServerParty) -> None:
        with self.store.snapshot() as view:
            study, now = study_of(view, record.study), sum_of(view, record.id)
        if study is None or (now != record and (now is None or now.state != "open" or now.attempt != record.attempt)):
            return
        if party.phase == "aborted" and not party.uploads:
            self._again(study, record, party)
            return
        plan, state = self.plan_and_state(study)
        self._end(study, record, ended(plan, study, state, party, self.random))

    def _again(self, study: StudyRecord, record: SumRecord, party: ServerParty) -> None:
        """Begin another attempt with the same beacon, or the same secret cohort. As nothing was uploaded, nothing is spent."""
        wait = min(self.settings.retry * 2.0 ** min(record.attempt - 1, 20), self.settings.work)
        if self.clock() < record.opened + wait:
            return
        plan, state = self.plan_and_state(study)
        with self.store.snapshot() as view:
            number = self._roster(view, study, plan)
            roster = self.rosters.roster(view, number)
        left = len(roster.identities)
        count = record.count if record.cohort else asked(plan, left) or min(record.count, left)  # the roster may have changed
        if count < max(1, plan.gathering.minimum):
            self._end(study, record, nobody(plan, study, state, record.name, count, self.random))
            return
        with self.store.transaction() as transaction:
            now = self.record(transaction, record.id)
            if now.state == "open" and now.attempt == record.attempt:
                beacon = self.call(transaction, now).beacon
                # A sum that an earlier version opened has no secret cohort yet.
                members = now.cohort or tuple(key.hex() for key in draw_members(plan, roster, count, self.random))
                again = replace(now, attempt=now.attempt + 1, roster=number, count=count, cohort=members)
                self._call(transaction, plan, again, beacon)
        log.info("another attempt", extra={"sum": record.id, "reason": party.reason})

    def _end(self, study: StudyRecord, record: SumRecord | None, ending: Ending) -> None:
        """Store how a sum ended, once. A process that comes second throws away what it has."""
        digest = study.state if ending.state is None else self.blobs.put(ending.state.pieces())
        after = replace(study.at(ending.progress), open="", state=digest, released=study.released + ending.spent)
        if ending.progress.finished:
            state = self.plan_and_state(after)[1] if ending.state is None else ending.state
            after = self._finished(after, self.plans.plan(after), state)
        with self.store.transaction() as transaction:
            first = study_of(transaction, study.hash) == study
            if first:
                self.check_there(digest, after.result)
                transaction.append(history_log(study.hash), canonical(ending.row))
                sum = {"round": study.round, "index": study.index, "answers": ending.row["answers"], "reason": ending.reason}
                action = "release" if ending.released else "abandon"
                note(transaction, self.clock(), "server", action, study.hash, sum)
                put(transaction, after)
            if first and record is not None:
                closed = closed_frame(self.call(transaction, record), ending.released)
                how: SumState = "released" if ending.released else "abandoned"
                over = replace(record, state=how, closed=closed.hex(), reason=ending.reason, included=ending.included)
                put(transaction, over)
        if first:
            log.info("sum over", extra={"study": study.hash, "round": study.round, "index": study.index, **ending.row})
            self._discard(study, record, digest)
        else:
            self.remove(digest, after.result)

    def _finished(self, study: StudyRecord, plan: Plan, state: State) -> StudyRecord:
        result = self.blobs.put(array_pieces(result_of(plan, state)))
        return replace(study, phase="finished", result=result, since=self.clock())

    def _discard(self, study: StudyRecord, record: SumRecord | None, digest: str) -> None:
        """Remove what is no longer needed: uploads, whole or in part, and the state before this sum."""
        if record is not None:
            with self.store.snapshot() as view:
                uploads, cohort = self.parties.uploads(view, record), self.cohort(view, record)
            self.parties.forget(record.id)
            for key in cohort:
                self.parts.discard(record.upload(key))
            self.remove(*uploads)
        self.remove(study.state)

    def remove(self, *digests: str) -> None:
        """Remove those of these blobs that no document names. Equal content is one blob, so another study may still need one.

        While this looks and removes, no other process can begin to name one: see `check_there`.
        """
        with self.store.transaction() as transaction:
            for digest in set(digests) - named(transaction, self.parties) - {""}:
                self.blobs.remove(digest)

    def check_there(self, *digests: str) -> None:
        """Check that blobs are still there. Call it in the transaction that is to name them, as they were written before it
        began.

        Raises ProtocolAbort if another process has removed one meanwhile, as part of an equal step of its own. Then nothing is
        written, and the step is taken again.
        """
        for digest in digests:
            if digest and not self.blobs.there(digest):
                raise ProtocolAbort(f"Blob {digest} has been removed meanwhile; nothing of this step was kept.")

    def plan_and_state(self, study: StudyRecord) -> tuple[Plan, State]:
        """A running study's plan, and the arrays that it has come to."""
        plan = self.plans.plan(study)
        return plan, State.read(self.blobs.read(study.state), self.blobs.size(study.state), plan.stacks)
