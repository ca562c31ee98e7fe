"""The agent of a site: it asks its server for work, decides by its own policy, and takes part in sums."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from manent.core.errors import InvalidInput, ManentError, NotAuthorized, ProtocolAbort
from manent.core.examples import Client
from manent.network.site import told
from manent.network.site.connection import WAIT, Away, Connection, pause
from manent.network.site.machine import Machine
from manent.network.site.spending import Account
from manent.network.site.state import APPROVALS, Known, SiteState
from manent.network.site.training import Children, Trainer, taking_part
from manent.network.site.work import Accepted, SumWork
from manent.network.trust.identity import replace_file
from manent.network.trust.policy import Decision, Facts, Policy, Refusal, approved, conditions, decide, load_now, on_mains
from manent.network.trust.roster import SignedRoster
from manent.network.wire.bundle import Bundle
from manent.network.wire.sums import check_network
from manent.privacy.check import Plan, resolve
from manent.rounds.declared import Sites, rebuild, schema_of
from manent.storage.lock import hold
from manent.summation.parties import wire
from manent.summation.parties.call import Roster
from manent.summation.parties.wire import Kind

log = logging.getLogger("manent.site")
ROSTER_WAIT, LONGEST_ROSTER_WAIT = 1.0, 30.0
"""Seconds between two looks at the roster by a site that is not on it: at first, and at most. They grow each time."""


class Agent:
    """Works for one site until it is stopped.

    Args:
        state: the site's folder.
        policy: the site's own rules.
        load: loads the site's data set of this name; called when a study first needs it.
        machine: time, threads, randomness and the way to the server.
    """

    def __init__(self, state: SiteState, policy: Policy, load: Callable[[str], Client], machine: Machine | None = None) -> None:
        self.state, self.policy, self.load, self.machine = state, policy, load, machine or Machine()
        self.server = state.server
        of = (self.server.url, self.server.pin, state.identity.signing_key)
        self.connection = Connection(*of, self.machine.clock, self.machine.transport, self._rest)
        self.account = Account(state, policy)
        self._queues: dict[str, list[str]] = {}  # sums to take part in, by study; each study in it has a thread
        self._lock, self._computing = threading.Lock(), threading.Lock()
        self._tasks: dict[str, Any] = {"studies": [], "sums": []}
        self._declined: set[bytes] = set()  # attempts that were declined, by their context
        self._plans: dict[tuple[str, int], Plan] = {}
        self._loaded: dict[str, Client] = {}
        self._clients: dict[str, Client] = {}
        self._children = Children(policy, state.folder)
        self._stop = threading.Event()
        self._seen = ""

    def stop(self) -> None:
        """Stop `run` after what it is doing now."""
        self._stop.set()

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Ask for work and do it, until `stop`, or until `until` holds between two questions.

        Raises as `storage.lock.hold` where another process is at work in the site's folder.
        """
        with hold(self.state.folder, "site"):
            self._run(until)

    def _run(self, until: Callable[[], bool]) -> None:
        self._await_roster(until)
        failures = 0
        while not self._stop.is_set() and not until():
            try:
                self.once()
                failures = 0
            except Away as error:
                failures += 1
                log.warning("server away", extra={"reason": str(error), "failures": failures})
                self._pause(failures)
            except ManentError as error:
                failures += 1
                log.error("refused", extra={"reason": str(error)})
                self._seen = ""  # ask again for the full answer, even if nothing changes
                self._pause(failures)
                if isinstance(error, NotAuthorized):  # it may have been taken off the roster
                    self._await_roster(until)

    def done(self) -> bool:
        """Whether every study that the site has decided about is over, or refused, and no sum is under way."""
        known = self.state.studies()
        return bool(known) and all(one.over or not one.accepted for one in known) and not self.state.tasks()

    def _pause(self, failures: int) -> None:
        self._rest(pause(failures, self.state.identity.signing_key, self.machine.clock()))

    def _rest(self, seconds: float) -> None:
        self.machine.pause(self._stop, seconds)

    def once(self) -> None:
        """Ask the server once, and do what follows from the answer."""
        unfinished = [task.id for task in self.state.tasks()]
        for id in unfinished:
            self._work(id)
        ending = any(id not in self._tasks["sums"] for id in unfinished)
        wait = 0.0 if self._seen == "" else 1.0 if ending else WAIT
        body = self.connection.ask("GET", "/v1/tasks", b"", {"wait": wait, "seen": self._seen})
        if body is not None:
            self._tasks = told.tasks(body)
            self._take_newest(int(self._tasks["roster"]))
            self._seen = sha256(body).hexdigest()
        for study in self._tasks["studies"]:
            self._study(study)
        for id in self._tasks["sums"]:
            self._work(id)

    # Studies.

    def _study(self, told: dict[str, object]) -> None:
        """Decide about a new study and tell the server, or note that a study is over."""
        hash, known = str(told["hash"]), self.state.study(str(told["hash"]))
        if told["phase"] in ("finished", "failed"):
            self._over(hash, str(told["phase"]), str(told["reason"]))
            return
        roster = int(str(told["roster"]))
        anew = known is not None and known.roster != roster and self.state.untouched(hash)
        if known is None or anew or (not known.accepted and told["phase"] == "deciding" and self._may_differ(known)):
            known = self._decide(hash, roster, int(str(told["seed"])), None if anew else known)
        if not known.later and (not known.told or told["decided"] is not True):
            values = {"accepted": known.accepted, "reason": known.reason, "roster": known.roster}
            self.connection.table("POST", f"/v1/studies/{hash}/decision", values)
            self.state.change_study(hash, lambda found: replace(found, told=found.accepted == values["accepted"]))

    def _over(self, hash: str, phase: str, reason: str) -> None:
        """Note, once, that a study is over. Not while a sum of it is under way, which may still spend budget."""
        known = None if self.state.study(hash) is None else self.state.close(hash)
        if known is None:
            return
        self.account.finish(known)
        self._children.end(known.bundle)
        log.info("study over", extra={"study": hash, "phase": phase, "reason": reason})

    def _may_differ(self, known: Known) -> bool:
        """Whether a refusal may now become another decision: with time, or because somebody has approved the bundle."""
        waits = "code.rule" not in known.reason
        return known.later and (waits or known.bundle in approved(self.state.folder / APPROVALS))

    def _decide(self, hash: str, roster: int, seed: int, before: Known | None) -> Known:
        bundle = self._bundle(hash)
        names = tuple(self._signed(roster).names.values())
        decision = decide(self.policy, bundle, names, self.facts())
        if decision.allowed and decision.plan is not None:
            decision = self._fitting(bundle, decision, decision.plan)
        reason = " ".join(decision.reasons)
        # A study that waits for a person's approval, or for the hours of work, is not refused yet.
        unread = self.policy.code.rule == "reviewed" and bundle.hash not in approved(self.state.folder / APPROVALS)
        pending = [refusal for refusal in decision.refusals if not (refusal.passing or (unread and refusal.rule == "code.rule"))]
        later = not decision.allowed and not pending
        known = Known(hash, bundle.hash, decision.allowed, reason, roster, seed, later=later)
        if before is None or (before.accepted, before.reason) != (known.accepted, known.reason):
            log.info("decision", extra={"study": hash, "accepted": known.accepted, "waits": later, "reason": reason})
            return self.state.put_study(known)
        return before

    def _fitting(self, bundle: Bundle, decision: Decision, plan: Plan) -> Decision:
        """The decision; or a refusal if the site's data do not fit, or the study cannot run over a network."""
        try:
            check_network(plan)
            self._trainer(bundle, plan)
        except ManentError as error:
            log.error("the study does not fit", extra={"study": bundle.study_hash, "reason": str(error)})
            demands, change = "a study that this site can run on its data", "The site's operator is told more."
            return replace(decision, refusals=(Refusal("study", demands, "one that it cannot", change),))
        return decision

    def _bundle(self, hash: str) -> Bundle:
        """A study's bundle, fetched once. Raises ProtocolAbort if the server sends another study's."""
        path = self.state.bundle_path(hash)
        if not path.exists():
            encoded = self.connection.ask("GET", f"/v1/studies/{hash}/bundle") or b""
            bundle = Bundle.read(encoded)
            if bundle.study_hash != hash:
                raise ProtocolAbort(f"The server gave another study for {hash[:16]}.")
            path.parent.mkdir(exist_ok=True)
            replace_file(path, bundle.encode())
        return self.state.bundle(hash)

    def facts(self) -> Facts:
        """What only this site knows at the moment."""
        seen = approved(self.state.folder / APPROVALS)
        return Facts(
            datetime.fromtimestamp(self.machine.clock()),
            self._children.isolated,
            self.account.ledger,
            seen,
            load_now(),
            on_mains(),
        )

    def plan(self, known: Known) -> Plan:
        """The site's own plan of a study that it has accepted, for the roster that it was accepted for."""
        key = known.hash, known.roster
        if key not in self._plans:
            bundle = self.state.bundle(known.hash)
            # It was verified when the site decided. Whether the plan holds for a sum's own roster is asked with each sum.
            planned = self.state.signed_roster(known.roster) or self._signed(known.roster)
            names = tuple(planned.names.values())
            self._plans[key] = resolve(rebuild(bundle.study), Sites(names, schema_of(bundle.schema)))
        return self._plans[key]

    def _trainer(self, bundle: Bundle, plan: Plan) -> Trainer:
        return self._children.trainer(bundle, plan, self._client(bundle))

    def _client(self, bundle: Bundle) -> Client:
        """The part of the site's data that takes part in a study. Raises InvalidInput if the data are not as the study's
        schema says.
        """
        if bundle.data not in self._loaded:
            self._loaded[bundle.data] = self.load(bundle.data)
        if bundle.hash not in self._clients:
            self._clients[bundle.hash] = taking_part(self._loaded[bundle.data], schema_of(bundle.schema))
        return self._clients[bundle.hash]

    # Rosters.

    def _await_roster(self, until: Callable[[], bool]) -> None:
        """Wait until this site is on the roster. With a consortium, that is when it has signed the next one."""
        looks, failures, told = 0, 0, ""
        while not self._stop.is_set() and not until():
            try:
                signed = SignedRoster.read(self.connection.ask("GET", "/v1/roster") or b"")
                self.state.take_roster(signed, bytes.fromhex(self.server.signer), self.machine.clock())
                if self.state.identity.public_hex in signed.names:
                    return
                reason, failures = f"roster {signed.number} does not name this site", 0
            except Away as error:
                reason, failures = str(error), failures + 1
            except ManentError as error:
                reason, failures = str(error), 0
            if reason != told:
                log.warning("waits for a roster with this site on it", extra={"reason": reason})
                told = reason
            looks += 1
            if failures:
                self._pause(failures)
            else:
                self._rest(min(ROSTER_WAIT * 1.1**looks, LONGEST_ROSTER_WAIT))

    def _take_newest(self, number: int) -> None:
        """Fetch a roster that is newer than all seen before, so that an older one can be refused from then on.

        Raises NotAuthorized if the server's newest roster is older than one that this site has seen.
        """
        known = self.state.newest_roster
        if number < known:
            raise NotAuthorized(f"The server's newest roster is {number}; this site has seen {known}, and takes no older one.")
        if number > known:
            self._signed(number)

    def _signed(self, number: int) -> SignedRoster:
        found = self.state.signed_roster(number)
        if found is None:
            found = SignedRoster.read(self.connection.ask("GET", "/v1/roster", b"", {"number": number}) or b"")
        self.state.take_roster(found, bytes.fromhex(self.server.signer), self.machine.clock())
        return found

    def roster(self, number: int) -> Roster:
        """A roster, verified anew: it may have expired or been replaced since it was first verified."""
        return self.state.take_roster(self._signed(number), bytes.fromhex(self.server.signer), self.machine.clock())

    # Sums.

    def _work(self, id: str) -> None:
        """Take part in a sum in a thread of its own. Sums of one study run one at a time."""
        study = id.rsplit("-", 2)[0]
        known = self.state.study(study)
        if known is not None and not known.accepted and not self._begun(id):
            self._decline(id, known)
            return
        if not self._wanted(id) or (not self._begun(id) and conditions(self.policy, self.facts())):
            return
        with self._lock:
            queue = self._queues.get(study)
            if queue is None:
                self._queues[study] = [id]
                self.machine.start(lambda: self._follow(study), f"study {study[:16]}")
            elif id not in queue:
                queue.append(id)  # the study's thread takes it up

    def _begun(self, id: str) -> bool:
        return any(task.id == id for task in self.state.tasks())

    def _wanted(self, id: str) -> bool:
        """Whether to take part in a sum: it was begun and is not over, or it is asked for and comes after all that the site
        took part in.
        """
        if self._begun(id):
            return True
        known = self.state.study(id.rsplit("-", 2)[0])
        place = tuple(int(part) for part in id.rsplit("-", 2)[1:])
        return (
            known is not None
            and known.accepted
            and not known.over
            and id in self._tasks["sums"]
            and place > (known.round, known.index)
        )

    def _follow(self, study: str) -> None:
        """Take part in the queued sums of a study, one after the other."""
        while True:
            with self._lock:
                queue = self._queues[study]
                if not queue or self._stop.is_set():
                    del self._queues[study]
                    return
            self._take_part(queue[0])
            with self._lock:
                queue.pop(0)

    def _take_part(self, id: str) -> None:
        """Take part in a sum until it is over. Try again if the server is away or the sum cannot go on."""
        failures = 0
        while not self._stop.is_set() and self._wanted(id):
            failures += 1
            try:
                self._sum_work(id).run(id)
            except Away as error:
                log.warning("server away", extra={"reason": str(error), "sum": id})
            except ManentError as error:
                log.error("this sum is not taken part in", extra={"sum": id, "reason": str(error)})
                failures += 2
            except Exception:
                log.exception("a sum failed", extra={"sum": id})
                failures += 4
            else:
                return
            self._pause(failures)

    def _sum_work(self, id: str) -> SumWork:
        known = self.state.study(id.rsplit("-", 2)[0])
        if known is None:
            raise InvalidInput(f"Sum {id} belongs to no study that this site knows.")
        plan, bundle = self.plan(known), self.state.bundle(known.hash)
        study = Accepted(known, plan, lambda: self._trainer(bundle, plan), self._client(bundle).name)
        return SumWork(self.state, self.connection, study, self.account, self.roster, self.machine.random(), self._computing)

    def _decline(self, id: str, known: Known) -> None:
        """Leave a sum of a study in which the site takes no part, so that nobody waits for it."""
        message = None if known.later or not known.told else self.connection.message(id, "", 0.0)
        if message is None:
            return
        kind, context, _ = wire.unframe(message)
        if kind is not Kind.CLOSED and context not in self._declined:
            self.connection.post(id, wire.frame(Kind.ABORT, context, b"This site takes no part in the study."))
            self._declined.add(context)
            log.info("declined", extra={"sum": id})
