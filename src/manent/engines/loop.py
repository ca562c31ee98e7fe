"""The loop of a simulation: sum after sum, from the draw of a cohort to the release, until the study is finished."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np

from manent.accounting import Ledger
from manent.core.errors import ClientFailed, ProtocolAbort
from manent.core.protocols import Accumulator, Assignment, Occasion
from manent.core.randomness import PrivateRandom, repeatable
from manent.crypto.random import SystemRandom
from manent.engines.clients import ClientSide, Unit
from manent.engines.folder import RunFolder
from manent.engines.memory import ClientMemory
from manent.engines.pools import Pool, start_pool
from manent.engines.probe import Probe
from manent.engines.progress import Watcher
from manent.engines.record import Record, write_start
from manent.engines.run import Run
from manent.engines.setting import Setting
from manent.engines.spending import ABANDONED, Spending, digest_of
from manent.rounds.reducer import (
    Abandon,
    Answered,
    Applied,
    Effect,
    Event,
    Failed,
    Lost,
    Opened,
    Progress,
    Release,
    Rules,
    follow,
)
from manent.rounds.server import abandoned_reason, assignment_bytes, assignment_of, crossed, first_state, released, rules_of
from manent.rounds.spending import abandoned_counts
from manent.rounds.state import State


@dataclass
class _Heard:
    """How a sum's clients answered: how many were sent the assignment and answered, their losses, and hidden failures."""

    sent_to: int = 0
    answers: int = 0
    losses: list[float] = field(default_factory=list)
    failures: list[ClientFailed] = field(default_factory=list)


@dataclass
class Loop:
    """A run under way.

    Attributes:
        memory: what clients keep between rounds; None for a study that keeps nothing.
        start_up: seconds before the first round.
        fresh: the sum that was released last, or counts as such, as `Checkpoint.release` has it; until it is committed.
    """

    setting: Setting
    record: Record
    spending: Spending
    memory: ClientMemory | None
    pool: Pool
    probe: Probe
    state: State
    progress: Progress
    random: PrivateRandom
    start_up: float = 0.0
    fresh: tuple[int, int, str] | None = None

    @cached_property
    def rules(self) -> Rules:
        """What the reducer needs of the plan."""
        return rules_of(self.setting.plan)

    def run(self, watcher: Watcher) -> None:
        """Sum after sum until the study is finished. Raises as `simulate`."""
        clients = 0
        while not self.progress.finished:
            before = self.progress
            assignment = assignment_of(self.setting.plan, self.state, before.round, before.index)
            if assignment is None:
                break
            clients += self._sum(assignment)
            ended = self.progress.round != before.round or self.progress.finished
            shown = self.probe.look(before.round, self.state) if ended else {}
            self._save()
            if ended:
                watcher.advance(before.round, clients, shown)
                clients = 0

    def _sum(self, assignment: Assignment) -> int:
        """One sum, from the draw of its cohort to its release. Returns how many clients answered, as the history says."""
        plan, at = self.setting.plan, self.progress
        self.spending.check()
        cohort = self._cohort()
        effects = self._follow(Opened(len(cohort)))
        total = plan.summation.init(self._occasion(assignment, cohort))
        self.pool.publish(assignment)
        heard, found = self._collect(assignment, cohort, total)
        effects += found
        self.probe.gather(len(cohort), heard.answers, heard.losses)
        counts = {"asked": len(cohort), "answers": heard.answers, "sent": assignment_bytes(assignment), "sent_to": heard.sent_to}
        row = {"round": at.round, "sum": assignment.sum, **crossed(plan, assignment.sum, **counts)}
        for effect in effects:
            if isinstance(effect, Release):
                row |= self._form(effect, assignment, cohort, total, at)
            elif isinstance(effect, Abandon):
                row |= self._abandon(abandoned_reason(plan, effect.reason), heard.answers, at)
        self.record.add_history(row)
        return int(row["answers"])

    def _cohort(self) -> tuple[int, ...]:
        """Who is asked: sorted indices into the federation."""
        setting, at, plan = self.setting, self.progress, self.setting.plan
        draw = repeatable(setting.seed, "cohort", at.round, at.index)
        turn = plan.study.cohort.turn(plan.public.clients, at.round, repeatable(setting.seed, "groups"))
        return plan.study.cohort.draw(plan.public.clients, draw, turn)

    def _occasion(self, assignment: Assignment, cohort: tuple[int, ...]) -> Occasion:
        """What the summation needs to know of a sum, and what befalls its clients."""
        setting, plan, at = self.setting, self.setting.plan, self.progress
        names = [setting.data.clients[index].name for index in cohort]
        model = sha256()
        if plan.summation.seen_by("server").view == "the sum alone":
            for name, array in sorted(assignment.arrays.items()):
                model.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return Occasion(
            study=bytes.fromhex(setting.hash),
            sum=assignment.sum,
            round=at.round,
            model=model.digest(),
            form=plan.stacks[assignment.sum].form,
            count=len(cohort),
            minimum=plan.gathering.minimum,
            vanish=tuple(setting.conditions.fate(setting.seed, at.round, at.index, name).dropped for name in names),
        )

    def _collect(self, assignment: Assignment, cohort: tuple[int, ...], total: Accumulator) -> tuple[_Heard, list[Effect]]:
        """Add up what the workers answer. Raises ClientFailed where the code of every client raised behind noise."""
        heard, effects = _Heard(), list[Effect]()
        for answer in self.pool.answers(self._units(assignment.sum, cohort)):
            total.merge(answer.partial)
            heard.sent_to += answer.sent_to
            heard.answers += len(answer.answered)
            heard.losses += answer.losses
            heard.failures += answer.failures
            if answer.answered:
                effects += self._follow(Answered(answer.answered))
            if answer.lost:
                effects += self._follow(Lost(answer.lost))
        if heard.failures and len(heard.failures) == heard.answers:
            raise min(heard.failures, key=lambda failed: failed.client)
        return heard, effects

    def _units(self, name: str, cohort: tuple[int, ...]) -> Iterator[Unit]:
        """The cohort in aligned runs: long ones first, as each costs a merge here, and short ones to keep every worker busy."""
        start, together = 0, self.setting.plan.summation.together
        while start < len(cohort):
            level = max((len(cohort) - start) // (2 * self.pool.size), 1).bit_length() - 1 if together else 0
            clients = cohort[start : start + (1 << level)]
            slots = () if self.memory is None else tuple(int(self.memory.current[i]) for i in clients)
            yield Unit(name, self.progress.round, self.progress.index, level, start >> level, len(cohort), clients, slots)
            start += len(clients)

    def _form(
        self, effect: Release, assignment: Assignment, cohort: tuple[int, ...], total: Accumulator, at: Progress
    ) -> dict[str, Any]:
        """Form the total and release it, or abandon the sum where its protocol aborts. Returns what the history says."""
        try:
            formed = total.finish()
        except ProtocolAbort as error:
            self._follow(Failed(str(error)))
            return self._abandon(abandoned_reason(self.setting.plan, str(error)), len(effect.positions), at)
        answers = len(effect.positions)
        stepped = released(self.setting.plan, self.state, at, assignment, formed, answers, self.random)
        self._spend(digest_of(stepped.total), at)
        self.state = stepped.state
        if self.memory is not None:
            self.memory.commit([cohort[p] for p in effect.positions])
        self._follow(Applied(stepped.more))
        return dict(stepped.report)

    def _abandon(self, reason: str, answers: int, at: Progress) -> dict[str, Any]:
        """Nothing is released; but what was sent may have been seen, and then counts. Returns what the history says."""
        if abandoned_counts(self.setting.plan, answers):
            self._spend(ABANDONED, at)
        return {"abandoned": reason}

    def _spend(self, digest: str, at: Progress) -> None:
        """Count a sum as released. It is committed with the next checkpoint, and nobody is told of it before."""
        self.spending.release()
        self.fresh = (at.round, at.index, digest)

    def _follow(self, event: Event) -> list[Effect]:
        self.progress, effects = follow(self.progress, self.rules, event)
        return effects

    def _save(self) -> None:
        # Kept, then paid for, then told. Before the checkpoint nobody has seen the noise of a sum, and a resumed run draws it
        # afresh; after it, it is what a resumed run commits and tells.
        self.record.save(self.state, self.progress, self.memory, self.probe.losses, self.spending.released, self.fresh)
        self.spending.commit(self.fresh)
        self.fresh = None
        self.record.tell()

    def finish(self) -> Run:
        """Settle what was spent, and return the run; its result is written to the folder, where there is one."""
        plan, record, folder = self.setting.plan, self.record, self.record.folder
        self.spending.finish()
        about = (plan.declared, plan.statement, self.state.arrays, record.history, record.probe, record.elapsed)
        run = Run(*about, folder.path if folder else None, start_up=self.start_up)
        if folder and self.setting.model is not None:
            run.model.save(folder.path / "model.safetensors")
        elif folder:
            folder.write("result.json", {name: np.asarray(array).tolist() for name, array in run.result.items()})
        return run


def start(
    setting: Setting, folder: RunFolder | None, ledger: Ledger | None, workers: int | None, until: ExitStack, began: float
) -> Loop:
    """A run with its budget reserved, its memory open and its workers started; new, or as its checkpoint left it.

    Args:
        workers: None takes as many as there are processors.
        until: ends the workers and closes the memory.
        began: `time.monotonic()` when the run was asked for.
    """
    plan = setting.plan
    saved = folder.checkpoint() if folder else None
    random = setting.random or SystemRandom()
    spending = Spending.begin(plan, saved, ledger, setting.data.name, folder, random)
    if folder and not folder.begun:
        write_start(folder, setting)
    memory = None
    if plan.memory is not None:
        path = folder.memory if folder else None
        memory = ClientMemory(plan.public.clients, plan.memory.size, path, saved.current if saved else None)
        until.callback(memory.close)
    failures = folder.failures if folder else None
    side = ClientSide(plan, setting.data.clients, setting.seed, setting.conditions, memory, failures, setting.random)
    pool = start_pool((os.cpu_count() or 1) if workers is None else workers, side, setting.measure)
    until.callback(pool.terminate)
    record = Record(folder, saved, began, durable=plan.privacy is not None)
    spending.commit(saved.release if saved else None)
    record.tell()
    probe = Probe(setting, pool, record, saved.losses if saved else (0.0, 0))
    state = State.of(saved.arrays, plan.stacks) if saved else first_state(plan, setting.seed)
    progress = saved.progress if saved else Progress()
    loop = Loop(setting, record, spending, memory, pool, probe, state, progress, random)
    loop.start_up = time.monotonic() - began
    return loop
