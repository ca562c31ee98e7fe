"""A site's part in one sum. What the server says is checked first, and what the site sends is stored before it is sent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from manent.core.errors import InvalidInput, ManentError, ProtocolAbort
from manent.core.parties import SERVER, ClientParty, Envelope, Step
from manent.core.protocols import Assignment, ClientContext
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Vector
from manent.crypto.samplers.gradients import ExactDraws
from manent.network.site import told
from manent.network.site.connection import WAIT, Connection
from manent.network.site.spending import Account
from manent.network.site.state import Known, SiteState, Task
from manent.network.site.training import Trainer, contribution
from manent.network.trust.receipts import Outcome, Promise, Receipt
from manent.network.wire.sums import StudySum, client_party, read_call
from manent.privacy.check import Plan
from manent.storage.arrays import read_arrays
from manent.storage.blobs import CHUNK
from manent.summation.parties import wire
from manent.summation.parties.call import Roster
from manent.summation.parties.wire import Kind

log = logging.getLogger("manent.site")


@dataclass(frozen=True)
class Accepted:
    """A study that the site has accepted, and what answers its sums.

    Attributes:
        known: what the site has noted of the study.
        plan: the site's own.
        trainer: gives what computes the contribution; called only when a sum needs a vector.
        client: the name by which the study's repeatable randomness knows the site's data.
    """

    known: Known
    plan: Plan
    trainer: Callable[[], Trainer]
    client: str


class SumWork:
    """Takes part in one sum of a study, from its call to its end. After a crash it resumes from the site's log.

    Args:
        account: the study's cost is set aside here before data are touched, and spent before the vector is sent.
        roster: the verified roster of a number; raises NotAuthorized for one that is not taken any more.
        random: source of the client's noise and masks; never seeded outside tests.
        computing: held while a sum is computed, so that the site computes one at a time.
    """

    def __init__(
        self,
        state: SiteState,
        connection: Connection,
        study: Accepted,
        account: Account,
        roster: Callable[[int], Roster],
        random: PrivateRandom,
        computing: threading.Lock,
    ) -> None:
        self.state, self.connection, self.account, self.roster = state, connection, account, roster
        self.known, self.plan, self.trainer, self.client = study.known, study.plan, study.trainer, study.client
        self.random, self.computing = random, computing

    def run(self, id: str) -> None:
        """Take part until the sum is over.

        Raises:
            Away: if the server cannot be reached. Run it again then.
            ManentError: if the sum cannot be answered; see the message.
        """
        about = self._about(id)
        task = next((task for task in self.state.tasks() if task.id == id), None)
        call = bytes.fromhex(about["call"])
        if about["state"] != "open":
            if task is not None:
                self._finish(task, about, self._witness(task, call))
            return
        if task is None:
            task = self._begin(id, about["name"], about["call"], int(about["roster"]), about["assignment"])
        else:
            task = self._renewed(task, call)
        self._talk(task, self._party(task, call))

    def _about(self, id: str) -> dict[str, Any]:
        """How a sum stands, as the server says."""
        return told.sum(id, self.connection.table("GET", f"/v1/sums/{id}"))

    def _begin(self, id: str, name: str, call: str, roster: int, assignment: str) -> Task:
        """Check a new sum, and fetch what clients are sent for it. Raises ProtocolAbort if it cannot be one of the study's."""
        study, round, index = id.rsplit("-", 2)
        count = read_call(self.plan, bytes.fromhex(call)).terms.clients
        task = Task(id, study, name, int(round), int(index), roster, count, assignment)
        spec = self.plan.sums.get(name)
        if (
            spec is None
            or study != self.known.hash
            or not 1 <= task.round <= self.plan.study.rounds
            or task.round % spec.every
            or task.index >= len(self.plan.sums)
        ):
            raise ProtocolAbort(f"Sum {id} ({name!r}) is not one of the study's.")
        if (task.round, task.index) <= (self.known.round, self.known.index):
            raise ProtocolAbort(
                f"Sum {id} is not after round {self.known.round}, sum {self.known.index}; no sum is answered twice."
            )
        # Else a server could ask for the costliest kind of sum more often than is accounted.
        if task.round <= self.known.kinds.get(name, 0):
            raise ProtocolAbort(f"Sum {id} is the second {name!r} of round {task.round}; a round has one of each kind at most.")
        if self.plan.privacy is not None and self.known.sent >= self.plan.privacy.releases:
            raise ProtocolAbort(f"The study accounts {self.plan.privacy.releases} releases, and that many sums were answered.")
        self._fetch(task)
        self.state.begin(task)
        return task

    def _fetch(self, task: Task) -> Path:
        """What clients are sent for a sum, fetched once. Each sum has a file of its own, as two studies' may be equal."""
        path = self._assignment(task)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            # At most a few vectors of the model's size (4 bytes a number), and what layers need.
            most = 16 * max(spec.layout.size for spec in self.plan.sums.values()) + (1 << 20)
            self.connection.fetch(f"/v1/sums/{task.id}/assignment", task.model, path, most)
        return path

    def _assignment(self, task: Task) -> Path:
        return self.state.folder / "assignments" / task.id

    def _party(self, task: Task, call: bytes) -> ClientParty:
        sum = StudySum(task.name, task.index, task.round, bytes.fromhex(task.model))
        own = (self.state.identity.signing_key, self.roster(task.roster), self.random, self.state.records(task.id))
        return client_party(self.plan, read_call(self.plan, call), sum, *own)

    def _witness(self, task: Task, call: bytes) -> ClientParty | None:
        """The party of a sum that is over, for what it has seen; None if its roster is not accepted any more."""
        try:
            return self._party(task, call)
        except ManentError:
            return None

    def _talk(self, task: Task, party: ClientParty) -> None:
        """Follow the protocol to its end. Each step is stored before it is sent."""
        # After a restart, repeat the last message: the server answers with what is needed now.
        queue = self._send(task, party.deadline()) if self.state.records(task.id) else []
        while not (party.finished and self._over(task, party)):
            wanted = not party.finished and party.awaits_vector
            if not queue:
                found = self.connection.message(task.id, task.after, 0.0 if wanted else WAIT)
                queue = [] if found is None else [found]
            if queue:
                task, party, replies = self._hear(task, party, queue.pop(0))
                queue += replies
            elif wanted:  # and the server is still waiting for it
                task, replies = self._contribute(task, party)
                queue += replies

    def _hear(self, task: Task, party: ClientParty, message: bytes) -> tuple[Task, ClientParty, list[bytes]]:
        """Take in a message, and send the answer. Returns what the server says to that."""
        kind, _, body = wire.unframe(message)
        if kind is Kind.CALL and (renewed := self._renewed(task, body)) is not task:
            task, party = renewed, self._party(renewed, body)
        known = len(party.refusals)
        step = party.receive(Envelope(SERVER, party.name, message))
        task = replace(task, after=sha256(message).hexdigest())
        self.state.keep(task, step.keep)
        for reason in party.refusals[known:]:
            log.warning("refused", extra={"sum": task.id, "reason": reason})
        return task, party, self._send(task, step)

    def _renewed(self, task: Task, body: bytes) -> Task:
        """The task under the roster of a new attempt. An upload that was made is kept: it is never made again."""
        call = read_call(self.plan, body)
        if task.upload or call.roster_number == task.roster:
            return task
        return self.state.restart(replace(task, roster=call.roster_number, count=call.terms.clients))

    def _over(self, task: Task, party: ClientParty) -> bool:
        """Whether the sum is over. If so, what was staged for it is kept or dropped."""
        about = self._about(task.id)
        if about["state"] == "open":
            return False
        self._finish(task, about, party)
        return True

    def _finish(self, task: Task, about: dict[str, Any], party: ClientParty | None) -> None:
        included = about["state"] == "released" and about["included"] is True
        receipt = self._receipt(task, about, included, party) if task.upload else None
        self.state.finish(task, included, receipt)
        self._assignment(task).unlink(missing_ok=True)
        late = bool(task.upload) and about["state"] == "released" and not included
        why = {"reason": "The sum was closed before this site's vector came."} if late else {}
        log.info("sum over", extra={"sum": task.id, "state": about["state"], "included": included, **why})

    def _receipt(self, task: Task, about: dict[str, Any], included: bool, party: ClientParty | None) -> Receipt:
        """The receipt for what the site sent to a sum that is over."""
        outcome: Outcome = "released" if included else "left out" if about["state"] == "released" else "abandoned"
        told = about.get("survivors") if party is None or party.survivors is None else party.survivors
        survivors = told if about["state"] == "released" else None
        of = (task.study, task.name, task.round, task.index, task.attempt, task.upload, outcome, task.count)
        counted = survivors if isinstance(survivors, int) else None
        return Receipt(*of, counted, type(self.plan.summation).__name__, Promise.of(self.plan.statement))

    def _send(self, task: Task, step: Step) -> list[bytes]:
        return [reply for envelope in step.send for reply in self.connection.post(task.id, envelope.body)]

    def _contribute(self, task: Task, party: ClientParty) -> tuple[Task, list[bytes]]:
        """Train, and give the vector. If that fails, tell the server that the site leaves the sum, without a reason."""
        try:
            vector, memory = self._compute(task)
        except ManentError as error:
            log.error("the client leaves this sum", extra={"sum": task.id, "reason": str(error)})
            self.state.finish(task, False)
            call = bytes.fromhex(self._about(task.id)["call"])
            leave = wire.frame(Kind.ABORT, read_call(self.plan, call).context, b"The client cannot answer.")
            self.connection.post(task.id, leave)
            raise
        step = party.contribute(vector)
        del vector  # a copy is in the message now; the vector may be as large as everything else
        sent = sha256(step.send[-1].body).hexdigest() if step.send else ""
        task = replace(task, upload=sent, attempt=party.uploaded_in or 0)
        # Kept and paid for in one transaction, then sent: a message that was lost is sent again, never made again.
        self.state.keep(task, step.keep, memory, self.account.commit(self.known, task))
        return task, self._send(task, step)

    def _compute(self, task: Task) -> tuple[Array, Vector | None]:
        """The vector as it is summed, and the client's memory. The budget is set aside first."""
        self.known = self.account.reserve(self.known, self.plan)
        path = self._fetch(task)
        with self.computing:
            with path.open("rb") as file:
                arrays = read_arrays(iter(partial(file.read, CHUNK), b""), path.stat().st_size)
            assignment = Assignment(task.name, arrays)
            context = ClientContext(self.client, task.round, self.known.seed, draws=ExactDraws(self.random))
            return contribution(self.plan, self.trainer(), assignment, self._memory(), context, self.random)

    def _memory(self) -> Vector | None:
        if self.plan.memory is None:
            return None
        kept = self.state.memory(self.known.hash)
        if kept is None:
            return np.zeros(self.plan.memory.size, np.float32)
        if kept.size != self.plan.memory.size:
            raise InvalidInput(
                f"The memory of study {self.known.hash[:16]} has {kept.size} numbers, not {self.plan.memory.size}."
            )
        return kept
