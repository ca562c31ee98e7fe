"""The engine for one machine: many clients, spread over worker processes."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from manent.accounting import Ledger
from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.randomness import PrivateRandom
from manent.core.study import Study
from manent.data.federation import Federation
from manent.engines.conditions import Conditions
from manent.engines.folder import RunFolder
from manent.engines.loop import start
from manent.engines.progress import Bar, Several, Watcher
from manent.engines.run import Run
from manent.engines.setting import Setting
from manent.engines.spending import open_ledger
from manent.privacy.check import Plan, resolve
from manent.storage.lock import hold


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
        seed: a whole number, from which everything repeatable follows: cohorts, data order, first weights, drop-outs. The result
            does not depend on `workers`.
        workers: processes of one thread each; None takes one for each processor, 0 works in this process (for debugging).
        conditions: drop-outs and stragglers.
        folder: where to keep the run. One process at a time works in it.
        resume: continue the interrupted run in the folder from its last checkpoint. It ends as if it had never stopped.
        evaluate_every: rounds between two looks at the test parts (for `run.probe`); the last round is always looked at.
        metrics: what to look at; None takes those that fit the model.
        watcher: told of each round, such as a `TensorBoardLogger`, or several of them; None shows a progress bar on a terminal.
        ledger: keeps the budget of the data set (by the federation's name) across runs; or the SQLite file of one. All that the
            study may release is reserved there before anything runs. After a crash it stays spent.
        random: source of noise and rounding; None is the operating system's. Only for tests, with workers=0.

    Raises:
        Refused: for a study with no honest statement; and for a folder on a file system without locks, see `storage.lock.hold`.
        BudgetSpent: the data set's budget does not cover the study; nothing has run.
        InvalidInput: an argument is of a wrong kind; the study does not fit itself or the data; the folder does not fit the
            study, or another process is at work in it.
        ClientFailed: a client's code raised, or its training diverged; its inputs are kept in the folder. In a sum with noise
            such a client sends zeros instead, and where its training is noised (`DPSGD`) noise alone, with a warning, because its
            failure would tell something of its data. There it is an error only where the code of every client of the sum raised,
            or where training fails without any example too. (A deployment cannot know that, and continues.)
    """
    began = time.monotonic()
    validate.count("simulate", "evaluate_every", evaluate_every)
    if workers is not None:
        validate.count("simulate", "workers", workers, " or None (every processor)", minimum=0)
    if random is not None and workers != 0:
        raise InvalidInput("A source of randomness given to simulate is for tests in one process; set workers=0.")
    validate.whole("simulate", "seed", seed)
    if conditions is not None:
        validate.part("simulate", "conditions", conditions, "conditions or None", ("fate",), "Conditions(drop_before_upload=0.1)")
    if metrics is not None:
        validate.names("simulate", "metrics", metrics, "('accuracy', 'loss')")
    plan = resolve(study, data)
    validate.part("simulate", "data", data, "a federation", ("clients", "fingerprint"), "data.heart_disease()")
    plan = _simulated(plan, random)
    setting = Setting(plan, data, seed, Conditions() if conditions is None else conditions, evaluate_every, metrics, random)
    with ExitStack() as held:
        if folder is not None:
            held.enter_context(hold(Path(folder), "run"))
        return _run(setting, _open(folder, resume, setting), open_ledger(ledger), workers, watcher, began)


def _run(
    setting: Setting,
    kept: RunFolder | None,
    ledger: Ledger | None,
    workers: int | None,
    watcher: Watcher | tuple[Watcher, ...] | None,
    began: float,
) -> Run:
    """Run until the study is finished; see `simulate`."""
    study = setting.plan.declared
    with ExitStack() as until:
        # A thread of BLAS waits busily for its next piece of work, on the processor that a worker needs.
        until.enter_context(threadpool_limits(1, user_api="blas"))
        loop = start(setting, kept, ledger, workers, until, began)
        if isinstance(watcher, tuple):
            watcher = Several(watcher)
        elif watcher is None:
            watcher = until.enter_context(Bar(study.rounds, loop.progress.round - 1, study.name or "rounds"))
        loop.run(watcher)
    return loop.finish()


def _simulated(plan: Plan, random: PrivateRandom | None) -> Plan:
    """The plan, with the statement of a run on one machine."""
    statement = plan.statement.simulated()
    if plan.privacy is not None and random is not None and not random.secure:
        statement = statement.without_epsilon(f"Noise came from {type(random).__name__}: whoever knows its seed removes it.")
    return replace(plan, statement=statement)


def _open(folder: str | Path | None, resume: bool, setting: Setting) -> RunFolder | None:
    """The run folder, new or of an interrupted run. Raises InvalidInput where it does not fit the study."""
    if folder is None:
        if resume:
            raise InvalidInput("resume needs the folder of the interrupted run; found folder=None.")
        return None
    if not resume:
        return RunFolder.create(folder)
    kept, facts = RunFolder.open(folder), setting.to_plain()
    found = kept.read("study.json")
    for name in ("hash", "noise_multiplier", "seed", "conditions", "evaluate_every", "data"):
        if name not in found:
            raise InvalidInput(f"{folder}/study.json does not say its {name}, so nothing tells whether it fits; start anew.")
        if found[name] != facts[name]:
            what = "study" if name == "hash" else name
            raise InvalidInput(
                f"{folder} was begun with another {what} ({found[name]}, now {facts[name]}); resume with the same, or start anew."
            )
    return kept
