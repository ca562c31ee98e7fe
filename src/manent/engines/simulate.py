"""The engine for one machine: many clients, spread over worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.examples import Client
from manent.core.metrics import default_metrics, measure
from manent.core.protocols import Assignment, Model, Released
from manent.core.randomness import repeatable
from manent.core.rounds import Abandon, Answered, Applied, Effect, Event, Lost, Opened, Progress, Release, Rules, step
from manent.core.study import Study, plain
from manent.core.sums import Partial
from manent.core.vectors import Array, Arrays
from manent.crypto.random import SystemRandom
from manent.data.federation import Federation
from manent.engines.clients import ClientSide, Unit
from manent.engines.conditions import Conditions
from manent.engines.folder import Checkpoint, RunFolder, environment
from manent.engines.memory import ClientMemory
from manent.engines.progress import Bar, Watcher
from manent.engines.run import Run
from manent.engines.workers import InProcess, Workers
from manent.privacy.check import Plan, resolve

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
    watcher: Watcher | None = None,
) -> Run:
    """Run a study on this machine.

    Args:
        seed: of everything repeatable: cohorts, data order, first weights, drop-outs. The result does not depend on `workers`.
        workers: processes of one thread; None takes as many as processors, 0 works in this process (for debugging).
        conditions: drop-outs and stragglers.
        folder: where to keep the run; with `resume`, an interrupted run there goes on, and ends as if uninterrupted.
        evaluate_every: rounds between two looks at the test parts (for `run.probe`); the last round is always looked at.
        metrics: what to look at; None takes those that fit the model.
        watcher: told of each round; None shows a progress bar on a terminal.

    Raises:
        InvalidInput: the study does not fit itself or the data, or the folder does not fit the study.
        ClientFailed: a client's code raised, or its training diverged; its inputs are kept in the folder.
    """
    began = time.monotonic()
    if evaluate_every < 1:
        raise InvalidInput(f"simulate expects evaluate_every >= 1; found {evaluate_every}.")
    plan = resolve(study, data)
    setting = _Setting(plan, data, seed, conditions or Conditions(), evaluate_every, metrics)
    kept = _open(folder, resume, setting)
    with ExitStack() as stack:
        simulation = _Simulation.start(setting, kept, stack, workers, began)
        if watcher is None:
            watcher = stack.enter_context(Bar(study.rounds, simulation.progress.round - 1, study.name or "rounds"))
        simulation.run(watcher)
    return simulation.finish()


@dataclass(frozen=True)
class _Setting:
    """What is simulated."""

    plan: Plan
    data: Federation
    seed: int
    conditions: Conditions
    evaluate_every: int
    metrics: tuple[str, ...] | None

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

    def plain(self) -> dict[str, Any]:
        """What a resumed run must agree in."""
        return {
            "hash": self.plan.study.hash,
            "study": self.plan.study.plain(),
            "seed": self.seed,
            "conditions": plain(self.conditions),
            "evaluate_every": self.evaluate_every,
            "data": self.data.fingerprint(),
        }


def _open(folder: str | Path | None, resume: bool, setting: _Setting) -> RunFolder | None:
    if folder is None:
        if resume:
            raise InvalidInput("resume needs the folder of the interrupted run; found folder=None.")
        return None
    facts = setting.plain()
    if not resume:
        kept = RunFolder.create(folder)
        kept.write("environment.json", environment(facts["data"]))
        kept.write("statement.json", setting.plan.statement.plain())
        kept.write_text("statement.txt", f"{setting.plan.statement}\n")
        kept.write("study.json", facts)
        return kept
    kept = RunFolder.open(folder)
    found = kept.read("study.json")
    for name in ("hash", "seed", "conditions", "evaluate_every", "data"):
        if found[name] != facts[name]:
            what = "study" if name == "hash" else name
            raise InvalidInput(
                f"{folder} was begun with another {what} ({found[name]}, now {facts[name]}); resume with the same, or start anew."
            )
    return kept


@dataclass
class _Simulation:
    """A run under way."""

    setting: _Setting
    folder: RunFolder | None
    pool: Workers | InProcess
    memory: ClientMemory | None
    state: Arrays
    progress: Progress
    began: float
    before: float
    start_up: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    probe: list[dict[str, Any]] = field(default_factory=list)
    losses: tuple[float, int] = (0.0, 0)

    @classmethod
    def start(
        cls, setting: _Setting, folder: RunFolder | None, stack: ExitStack, workers: int | None, began: float
    ) -> _Simulation:
        """Memory, workers and first state; or those of the checkpoint."""
        plan, public = setting.plan, setting.plan.public
        saved = folder.checkpoint() if folder else None
        memory = None
        if plan.memory is not None:
            path = folder.memory if folder else None
            memory = ClientMemory(public.clients, plan.memory.size, path, saved.current if saved else None)
            stack.callback(memory.close)
        side = ClientSide(
            plan, setting.data.clients, setting.seed, setting.conditions, memory, folder.failures if folder else None
        )
        count = (os.cpu_count() or 1) if workers is None else workers
        pool: Workers | InProcess
        if count and hasattr(os, "fork"):
            pool = Workers(count, side, setting.measure, max(spec.layout.size for spec in plan.sums.values()))
        else:
            pool = InProcess(side, setting.measure)
        stack.callback(pool.terminate)
        state = saved.state if saved else plan.study.algorithm.init(public, repeatable(setting.seed, "init"))
        simulation = cls(
            setting, folder, pool, memory, state, saved.progress if saved else Progress(), began, saved.elapsed if saved else 0.0
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
        at, spec = self.progress, plan.sums[assignment.sum]
        draw = repeatable(setting.seed, "cohort", at.round, at.index)
        cohort = plan.study.cohort.draw(plan.public.clients, draw)
        effects = self._step(Opened(len(cohort)))
        total = plan.summation.init(spec.layout.size, len(cohort))
        self.pool.publish(assignment)
        sent_to, answers = 0, 0
        losses: list[float] = []
        for answer in self.pool.answers(self._units(assignment.sum, cohort)):
            part = answer.partial
            total.merge(Partial(part.level, part.index, None if part.total is None else part.total.copy()))
            sent_to, answers = sent_to + answer.sent_to, answers + len(answer.answered)
            losses += answer.losses
            effects += self._step(Answered(answer.answered)) if answer.answered else ()
            effects += self._step(Lost(answer.lost)) if answer.lost else ()
        # fsum rounds once, so the order in which workers answer does not show.
        self.losses = self.losses[0] + fsum(losses), self.losses[1] + len(losses)
        row: dict[str, Any] = {
            "round": at.round,
            "sum": assignment.sum,
            "cohort": len(cohort),
            "answers": answers,
            "bytes_up": 4 * spec.layout.size * answers,
            "bytes_down": sum(array.nbytes for array in assignment.arrays.values()) * sent_to,
        }
        for effect in effects:
            if isinstance(effect, Release):
                row |= self._release(effect, assignment, cohort, total.finish())
            elif isinstance(effect, Abandon):
                row["abandoned"] = effect.reason
        self.history.append({**row, "seconds": round(self.elapsed, 4)})
        if self.folder:
            self.folder.append("history.jsonl", self.history[-1])
        return answers

    def _step(self, event: Event) -> tuple[Effect, ...]:
        study = self.setting.plan.study
        self.progress, effects = step(self.progress, event, Rules(study.rounds, study.cohort.minimum))
        return effects

    def _units(self, name: str, cohort: tuple[int, ...]) -> Iterator[Unit]:
        """The cohort in aligned runs, small enough to keep every worker busy to the end."""
        level = max(len(cohort) // (16 * self.pool.size), 1).bit_length() - 1
        for index in range(-(-len(cohort) >> level)):
            clients = cohort[index << level : (index + 1) << level]
            slots = () if self.memory is None else tuple(int(self.memory.current[i]) for i in clients)
            yield Unit(name, self.progress.round, self.progress.index, level, index, len(cohort), clients, slots)

    def _release(self, effect: Release, assignment: Assignment, cohort: tuple[int, ...], total: Array) -> dict[str, float]:
        """The server's halves of the layers, the algorithm's next state, and the memory of those in the sum."""
        plan, at = self.setting.plan, self.progress
        layout = plan.sums[assignment.sum].layout
        for layer in reversed(plan.study.layers):
            total = layer.server(total, layout, SystemRandom())
        released = Released(total, len(effect.positions), at.round)
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
            self.folder.save(Checkpoint(self.state, self.progress, current, self.elapsed, self.losses, self.folder.lengths()))

    def finish(self) -> Run:
        """The run as it stands, and its result in the folder."""
        plan = self.setting.plan
        path = self.folder.path if self.folder else None
        run = Run(plan.study, plan.statement, self.state, self.history, self.probe, self.elapsed, path, start_up=self.start_up)
        if self.folder and self.setting.model is not None:
            run.model.save(self.folder.path / "model.safetensors")
        elif self.folder:
            self.folder.write("result.json", {name: np.asarray(array).tolist() for name, array in run.result.items()})
        return run


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    """Those that are numbers: JSON knows no NaN, and a metric may have no value (AUC of one class)."""
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _spread(values: list[float]) -> dict[str, float]:
    """Mean, standard deviation, least and largest of a metric over clients; those for which it has no value are left out."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return {}
    return {"mean": float(known.mean()), "sd": float(known.std()), "min": float(known.min()), "max": float(known.max())}
