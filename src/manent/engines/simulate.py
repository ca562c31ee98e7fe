"""The engine for one machine: many clients, spread over worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from manent.accounting import Ledger
from manent.core.canonical import to_plain
from manent.core.errors import ClientFailed, InvalidInput, ProtocolAbort
from manent.core.examples import Client
from manent.core.metrics import default_metrics, measure
from manent.core.protocols import Accumulator, Assignment, Model, Occasion, Released
from manent.core.randomness import PrivateRandom, repeatable
from manent.core.study import Study
from manent.core.vectors import Array, Arrays
from manent.crypto.random import SystemRandom
from manent.data.federation import Federation
from manent.engines.clients import ClientSide, Unit
from manent.engines.conditions import Conditions
from manent.engines.folder import Checkpoint, RunFolder, environment
from manent.engines.memory import ClientMemory
from manent.engines.progress import Bar, Several, Watcher
from manent.engines.run import Run
from manent.engines.spending import Spending, open_ledger
from manent.engines.threads import Threads
from manent.engines.workers import InProcess, Workers
from manent.privacy.check import Plan, resolve
from manent.rounds.reducer import Abandon, Answered, Applied, Effect, Event, Failed, Lost, Opened, Progress, Release, Rules, step

NAMED = 50  # federations of at most so many clients get their metrics by client


def simulate(
    study: Study,
    data: Federation,
    *,
    seed: int = 0,
    workers: int | None = None,
    conditions: Conditions | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    evaluate_every: int = 1,
    metrics: tuple[str, ...] | None = None,
    watcher: Watcher | tuple[Watcher, ...] | None = None,
    ledger: Ledger | str | Path | None = None,
    random: PrivateRandom | None = None,
) -> Run:
    """Run a study on this machine.

    Args:
        seed: of everything repeatable: cohorts, data order, first weights, drop-outs. The result does not depend on `workers`.
        workers: processes of one thread; None takes as many as processors, 0 works in this process (for debugging).
        conditions: drop-outs and stragglers.
        folder: where to keep the run; with `resume`, an interrupted run there goes on, and ends as if uninterrupted.
        evaluate_every: rounds between two looks at the test parts (for `run.probe`); the last round is always looked at.
        metrics: what to look at; None takes those that fit the model.
        watcher: told of each round, such as a `TensorBoardLogger`, or several of them; None shows a progress bar on a terminal.
        ledger: where the budget of the data set (by the federation's name) is kept across runs, or the SQLite file of one. All
            that the study may release is reserved there before anything runs; a crash leaves it spent.
        random: source of noise and rounding; None is the operating system's. Only for tests, with workers=0.

    Raises:
        Refused: for a study with no honest statement.
        BudgetSpent: the data set's budget does not cover the study; nothing has run.
        InvalidInput: the study does not fit itself or the data, or the folder does not fit the study.
        ClientFailed: a client's code raised, or its training diverged; its inputs are kept in the folder. In a sum with noise
            such a client sends zeros instead and a warning is given, as its failure would tell something of its data; only where
            the code of every client of a sum raised is this an error too. (A deployment cannot know that, and goes on.)
    """
    began = time.monotonic()
    if evaluate_every < 1:
        raise InvalidInput(f"simulate expects evaluate_every >= 1; found {evaluate_every}.")
    if random is not None and workers != 0:
        raise InvalidInput("A source of randomness given to simulate is for tests in one process; set workers=0.")
    plan = _simulated(resolve(study, data), random)
    setting = _Setting(plan, data, seed, conditions or Conditions(), evaluate_every, metrics, open_ledger(ledger), random)
    kept = _open(folder, resume, setting)
    with ExitStack() as stack:
        # A thread of BLAS waits busily for its next piece of work, on the processor that a worker needs.
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        simulation = _Simulation.start(setting, kept, stack, workers, began)
        if isinstance(watcher, tuple):
            watcher = Several(watcher)
        elif watcher is None:
            watcher = stack.enter_context(Bar(study.rounds, simulation.progress.round - 1, study.name or "rounds"))
        simulation.run(watcher)
    return simulation.finish()


def _simulated(plan: Plan, random: PrivateRandom | None) -> Plan:
    """The plan with the statement of a run on one machine."""
    statement = plan.statement.simulated()
    if plan.privacy is not None and random is not None and not random.secure:
        statement = statement.without_epsilon(f"Noise came from {type(random).__name__}: whoever knows its seed removes it.")
    return replace(plan, statement=statement)


@dataclass(frozen=True)
class _Setting:
    """What is simulated."""

    plan: Plan
    data: Federation
    seed: int
    conditions: Conditions
    evaluate_every: int
    metrics: tuple[str, ...] | None
    ledger: Ledger | None = None
    random: PrivateRandom | None = None

    @cached_property
    def hash(self) -> str:
        """The study's, taken once: to read a model's code again takes milliseconds."""
        return self.plan.hash

    @property
    def model(self) -> Model | None:
        model: Model | None = getattr(self.plan.study.algorithm, "model", None)
        return model

    @property
    def metric_names(self) -> tuple[str, ...]:
        if self.model is None:
            return ()
        extra = ("auc", "f1") if self.model.kind == "binary" else ()
        return self.metrics or (*default_metrics(self.model.kind), *extra)

    def measure(self, vector: Array, client: Client) -> dict[str, float]:
        """A model's metrics on a client's own test part."""
        if self.model is None or client.test is None:
            raise InvalidInput(f"Client {client.name!r} has no test part to measure on.")
        return measure(self.metric_names, self.model.evaluate(vector, client.test), self.model.classes)

    def to_plain(self) -> dict[str, Any]:
        """What a resumed run must agree in."""
        return {
            "hash": self.hash,
            "study": self.plan.declared.to_plain(),
            "noise_multiplier": self.plan.noise_multiplier,
            "seed": self.seed,
            "conditions": to_plain(self.conditions),
            "evaluate_every": self.evaluate_every,
            "data": self.data.fingerprint(),
        }


def _open(folder: str | Path | None, resume: bool, setting: _Setting) -> RunFolder | None:
    if folder is None:
        if resume:
            raise InvalidInput("resume needs the folder of the interrupted run; found folder=None.")
        return None
    if not resume:
        return RunFolder.create(folder)
    kept, facts = RunFolder.open(folder), setting.to_plain()
    found = kept.read("study.json")
    for name in ("hash", "noise_multiplier", "seed", "conditions", "evaluate_every", "data"):
        if found.get(name, facts[name]) != facts[name]:
            what = "study" if name == "hash" else name
            raise InvalidInput(
                f"{folder} was begun with another {what} ({found[name]}, now {facts[name]}); resume with the same, or start anew."
            )
    return kept


def _begin(folder: RunFolder, setting: _Setting) -> None:
    """Write what a run starts with; study.json last, as it marks a run that can be resumed."""
    facts = setting.to_plain()
    folder.write("environment.json", environment(facts["data"]))
    folder.write("statement.json", setting.plan.statement.to_plain())
    folder.write_text("statement.txt", f"{setting.plan.statement}\n")
    folder.write("study.json", facts)


@dataclass
class _Simulation:
    """A run under way."""

    setting: _Setting
    folder: RunFolder | None
    pool: Workers | Threads | InProcess
    memory: ClientMemory | None
    state: Arrays
    progress: Progress
    began: float
    before: float
    layers: dict[str, Arrays]
    spending: Spending
    random: PrivateRandom
    start_up: float = 0.0
    counts: tuple[int, int] = (0, 0)
    history: list[dict[str, Any]] = field(default_factory=list)
    probe: list[dict[str, Any]] = field(default_factory=list)
    losses: tuple[float, int] = (0.0, 0)
    fresh: list[Array] = field(default_factory=list)

    @classmethod
    def start(
        cls, setting: _Setting, folder: RunFolder | None, stack: ExitStack, workers: int | None, began: float
    ) -> _Simulation:
        """Memory, workers and first state; or those of the checkpoint."""
        plan, public = setting.plan, setting.plan.public
        saved = folder.checkpoint() if folder else None
        random = setting.random or SystemRandom()
        spending = Spending.begin(plan, saved.released if saved else 0, setting.ledger, setting.data.name, folder, random)
        if folder and not folder.begun:
            _begin(folder, setting)
        memory = None
        if plan.memory is not None:
            path = folder.memory if folder else None
            memory = ClientMemory(public.clients, plan.memory.size, path, saved.current if saved else None)
            stack.callback(memory.close)
        failures = folder.failures if folder else None
        side = ClientSide(plan, setting.data.clients, setting.seed, setting.conditions, memory, failures, setting.random)
        count = (os.cpu_count() or 1) if workers is None else workers
        pool: Workers | Threads | InProcess
        if count and getattr(setting.model, "threadsafe", False):
            pool = Threads(count, side, setting.measure)
        elif count and side.together == 1 and hasattr(os, "fork"):
            pool = Workers(count, side, setting.measure, max(stack.layout.size for stack in plan.stacks.values()))
        else:
            pool = InProcess(side, setting.measure)
        stack.callback(pool.terminate)
        state = saved.state if saved else plan.study.algorithm.init(public, repeatable(setting.seed, "init"))
        simulation = cls(
            setting,
            folder,
            pool,
            memory,
            state,
            saved.progress if saved else Progress(),
            began,
            saved.elapsed if saved else 0.0,
            {name: _of(saved.layers, name) if saved else stack.init() for name, stack in plan.stacks.items()},
            spending,
            random,
        )
        if folder and saved:
            simulation.losses = saved.losses
            simulation.history, simulation.probe = folder.rows("history.jsonl"), folder.rows("probe.jsonl")
        simulation.start_up = time.monotonic() - began
        return simulation

    @property
    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.began

    def run(self, watcher: Watcher) -> None:
        """Sum after sum until the study is finished."""
        algorithm = self.setting.plan.study.algorithm
        clients = 0
        while not self.progress.finished:
            assignment = algorithm.assign(self.state, self.progress.round, self.progress.index)
            if assignment is None:
                break
            before = self.progress
            clients += self._sum(assignment)
            if self.progress.round != before.round or self.progress.finished:
                shown = self._look(before.round)
                watcher.advance(before.round, clients, shown)
                clients = 0
            self._save()

    def _sum(self, assignment: Assignment) -> int:
        """One sum, from the draw of its cohort to its release. Returns how many clients answered."""
        setting, plan = self.setting, self.setting.plan
        at, stack = self.progress, plan.stacks[assignment.sum]
        self.spending.check()
        stack.check_round(self.layers[assignment.sum], at.round)
        assignment = Assignment(assignment.sum, {**assignment.arrays, **stack.sends(self.layers[assignment.sum])})
        draw = repeatable(setting.seed, "cohort", at.round, at.index)
        turn = plan.study.cohort.turn(plan.public.clients, at.round, repeatable(setting.seed, "groups"))
        cohort = plan.study.cohort.draw(plan.public.clients, draw, turn)
        effects = self._step(Opened(len(cohort)))
        total = plan.summation.init(self._occasion(assignment, cohort))
        self.pool.publish(assignment)
        sent_to, answers = 0, 0
        losses: list[float] = []
        failures: list[ClientFailed] = []
        for answer in self.pool.answers(self._units(assignment.sum, cohort)):
            total.merge(answer.partial)
            sent_to, answers = sent_to + answer.sent_to, answers + len(answer.answered)
            losses += answer.losses
            failures += answer.failures
            effects += self._step(Answered(answer.answered)) if answer.answered else ()
            effects += self._step(Lost(answer.lost)) if answer.lost else ()
        if failures and len(failures) == answers:
            raise min(failures, key=lambda failed: failed.client)
        # fsum rounds once, so the order in which workers answer does not show.
        self.losses = self.losses[0] + fsum(losses), self.losses[1] + len(losses)
        row = {"round": at.round, "sum": assignment.sum, **self._crossed(assignment, len(cohort), answers, sent_to)}
        for effect in effects:
            if isinstance(effect, Release):
                row |= self._form(effect, assignment, cohort, total)
            elif isinstance(effect, Abandon):
                row |= self._abandon(
                    effect.reason if plan.divisor is None else "Fewer answers than the noise is sized for.", answers
                )
        self.history.append({**row, "seconds": round(self.elapsed, 4)})
        if self.folder:
            self.folder.append("history.jsonl", self.history[-1])
        return answers

    def _occasion(self, assignment: Assignment, cohort: tuple[int, ...]) -> Occasion:
        """What the summation needs to know of a sum, and what befalls its clients."""
        setting, plan, at = self.setting, self.setting.plan, self.progress
        names = [setting.data.clients[index].name for index in cohort]
        model = sha256()
        if plan.summation.view == "the sum alone":
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

    def _form(self, effect: Release, assignment: Assignment, cohort: tuple[int, ...], total: Accumulator) -> dict[str, Any]:
        """The total and its release; or, where the protocol aborts, none."""
        try:
            formed = total.finish()
        except ProtocolAbort as error:
            self._step(Failed(str(error)))
            return self._abandon(str(error), len(effect.positions))
        return dict(self._release(effect, assignment, cohort, formed))

    def _abandon(self, reason: str, answers: int) -> dict[str, Any]:
        """Nothing is released; but what was sent may have been seen."""
        if self.setting.plan.abandoned_is_spent and answers:
            self.spending.release()
        return {"abandoned": reason}

    def _crossed(self, assignment: Assignment, cohort: int, answers: int, sent_to: int) -> dict[str, Any]:
        """Who took part, and how many bytes crossed. What history says is released: for a private sum, what was expected."""
        expected = self.setting.plan.divisor
        self.counts = self.counts[0] + cohort, self.counts[1] + answers
        if expected is not None:
            cohort = answers = sent_to = round(expected)
        return {
            "cohort": cohort,
            "answers": answers,
            "bytes_up": self._bytes(assignment.sum) * answers,
            "bytes_down": sum(array.nbytes for array in assignment.arrays.values()) * sent_to,
        }

    def _bytes(self, name: str) -> int:
        """Of one client's vector on its way to the server."""
        plan = self.setting.plan
        form = plan.stacks[name].form
        return -(-form.layout.size * plan.summation.bits(form, plan.gathering.most) // 8)

    def _step(self, event: Event) -> tuple[Effect, ...]:
        plan = self.setting.plan
        self.progress, effects = step(self.progress, event, Rules(plan.study.rounds, plan.gathering.minimum))
        return effects

    def _units(self, name: str, cohort: tuple[int, ...]) -> Iterator[Unit]:
        """The cohort in aligned runs: long ones first, as each costs a merge here, and short ones to keep every worker busy."""
        start, together = 0, self.setting.plan.summation.together
        while start < len(cohort):
            level = max((len(cohort) - start) // (2 * self.pool.size), 1).bit_length() - 1 if together else 0
            clients = cohort[start : start + (1 << level)]
            slots = () if self.memory is None else tuple(int(self.memory.current[i]) for i in clients)
            yield Unit(name, self.progress.round, self.progress.index, level, start >> level, len(cohort), clients, slots)
            start += len(clients)

    def _release(self, effect: Release, assignment: Assignment, cohort: tuple[int, ...], total: Array) -> dict[str, float]:
        """The server's halves of the layers, the algorithm's next state, and the memory of those in the sum."""
        plan, at = self.setting.plan, self.progress
        name, expected = assignment.sum, plan.divisor
        total, self.layers[name] = plan.stacks[name].server(total, self.layers[name], self.random)
        self.spending.release()
        answers = len(effect.positions) if expected is None else max(1, round(expected))
        released = Released(total, answers, at.round, expected)
        self.fresh.append(total)
        self.state, report = plan.study.algorithm.apply(self.state, assignment, released)
        if self.memory is not None:
            self.memory.commit([cohort[p] for p in effect.positions])
        more = plan.study.algorithm.assign(self.state, at.round, at.index + 1) is not None
        self._step(Applied(more))
        return _finite(report)

    def _look(self, round: int) -> dict[str, float]:
        """The probe of a round, where one is due. Returns what a progress bar shows."""
        setting, last = self.setting, round == self.setting.plan.study.rounds
        row: dict[str, Any] = {"round": round}
        if setting.plan.privacy is not None:
            row["cohort"], row["answers"] = self.counts
        self.counts = 0, 0
        if self.losses[1]:
            row["train_loss"] = self.losses[0] / self.losses[1]
            self.losses = 0.0, 0
        if setting.model is None or (round % setting.evaluate_every and not last):
            return {name: row[name] for name in ("train_loss",) if name in row}
        vector, names = np.asarray(self.state["model"], np.float32), setting.metric_names
        if setting.data.test is not None:
            scored = setting.model.evaluate(vector, setting.data.test)
            row["test"] = _finite(measure(names, scored, setting.model.classes))
        tested = [i for i, client in enumerate(setting.data.clients) if client.test is not None and len(client.test)]
        if tested:
            found = self.pool.measure(vector, tested)
            spreads = {name: _spread([metrics[name] for metrics in found]) for name in names}
            row["clients"] = {name: spread for name, spread in spreads.items() if spread}
            if len(tested) <= NAMED:
                row["client"] = {setting.data.clients[i].name: _finite(own) for i, own in zip(tested, found, strict=True)}
        row["seconds"] = float(f"{self.elapsed:.4f}")
        self.probe.append(row)
        if self.folder:
            self.folder.append("probe.jsonl", row)
        shown = row.get("test") or {name: spread["mean"] for name, spread in row.get("clients", {}).items()}
        return {name: shown[name] for name in names[:2] if name in shown}

    def _save(self) -> None:
        if self.folder:
            current = np.zeros(0, np.uint8) if self.memory is None else self.memory.current
            layers = {f"{name}/{key}": array for name, state in self.layers.items() for key, array in state.items()}
            at = self.state, self.progress, current, self.elapsed, self.losses, self.folder.lengths()
            self.folder.save(Checkpoint(*at, layers, self.spending.released))
        # The checkpoint is the release: noise of a sum that did not come so far was seen by nobody, and is drawn afresh.
        for total in self.fresh:
            self.spending.commit(total)
        self.fresh.clear()

    def finish(self) -> Run:
        """The run as it stands, and its result in the folder."""
        plan = self.setting.plan
        self.spending.finish()
        path = self.folder.path if self.folder else None
        run = Run(plan.declared, plan.statement, self.state, self.history, self.probe, self.elapsed, path, start_up=self.start_up)
        if self.folder and self.setting.model is not None:
            run.model.save(self.folder.path / "model.safetensors")
        elif self.folder:
            self.folder.write("result.json", {name: np.asarray(array).tolist() for name, array in run.result.items()})
        return run


def _of(layers: Arrays, name: str) -> Arrays:
    """One sum's part of the layers' saved state."""
    return {key.removeprefix(f"{name}/"): array for key, array in layers.items() if key.startswith(f"{name}/")}


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    """Those that are numbers: JSON knows no NaN, and a metric may have no value (AUC of one class)."""
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _spread(values: list[float]) -> dict[str, float]:
    """Mean, standard deviation, least and largest of a metric over clients; those for which it has no value are left out."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return {}
    return {"mean": float(known.mean()), "sd": float(known.std()), "min": float(known.min()), "max": float(known.max())}
