"""The demonstration as a federation: a server and four hospitals, each a process with a folder of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.numpy import load_file

from manent.accounting import Budget
from manent.algorithms import Evaluation
from manent.algorithms.gradient import GradientAlgorithm
from manent.app.demo.processes import Processes, ProcessFailed, free_port, rows
from manent.app.demo.ways import FEDERATED, FIRST_SEED, ROUNDS
from manent.app.demo.words import listed
from manent.core.study import Cohort, Study
from manent.core.training import LocalSGD
from manent.core.training.dpsgd import DPSGD
from manent.data import heart_disease
from manent.engines import Run
from manent.privacy.check import check
from manent.summation import SecAgg

FEWEST = 3
"""Hospitals in each sum, at least."""
STILL = 180.0
"""Seconds: if no round ends for so long, something is wrong."""
EPSILON, DELTA = 4.0, 1e-3
"""What each study may cost each patient, with `private`."""
STUDY = """\
import manent as mn
from manent.app.demo.federation import shared

data = mn.data.heart_disease()
study = shared({way!r}, {rounds}, private={private})
"""
LOAD = """\
import manent as mn


def load():
    return mn.data.heart_disease().client({name!r})
"""
RULES = """\
# The rules of {name} in this demonstration: `manent site init` writes a policy with every choice explained.

[researchers]
"the server's operator" = "{server}"

[code]
rule = "none"
isolation = "required"

[cohort]
minimum = {fewest}
survivors = {fewest}

[summation]
allowed = ["SecAgg"]
adversary = "active"
corrupt = 0.0
post_quantum = true

{privacy}

[limits]
model_mb = 1.0
memory_mb = 1000.0
seconds = 600.0
rounds = 100

[work]
hours = ["00:00-24:00"]
mains_power = false
"""
OPEN = """\
[privacy]
required = false

[data.heart_disease]"""
GUARDED = """\
[privacy]
required = true
epsilon = {epsilon}
delta = {delta}
unit = "example"
against = ["server", "clients", "public"]

[data.heart_disease]
budget = {{ epsilon = {all}, delta = {delta}, privacy_unit = "example", neighboring_relation = "add_or_remove" }}"""


def shared(way: str, rounds: int = ROUNDS, private: bool = False) -> Study:
    """The study that the hospitals are asked to take part in: one of `FEDERATED`, summed by SecAgg.

    Args:
        private: every local step is noised for each patient (differential privacy), and only the model is released.

    Raises KeyError for another way.
    """
    algorithm: GradientAlgorithm = FEDERATED[way]
    budget = None
    if private:
        # Fewer and larger steps than in the published recipe: each step costs privacy.
        local = LocalSGD(lr=algorithm.local.lr, steps=20, batch_size=20, privacy=DPSGD(clip_norm=1.0, examples=100))
        algorithm = replace(algorithm, local=local, weighting="equal")
        budget = Budget(EPSILON, DELTA, privacy_unit="example", neighboring_relation="add_or_remove")
    else:
        algorithm = replace(algorithm, evaluation=Evaluation(every=max(1, rounds // 5)))
    summation = SecAgg(minimum_cohort=FEWEST, dropped=0.2)
    return Study(algorithm, rounds, Cohort(minimum=FEWEST), summation=summation, budget=budget, name=way)


def train(folder: Path, rounds: int, private: bool, console: Console) -> dict[str, Run]:
    """Run every way of learning together as a federation of processes over TLS. Returns their runs, by name.

    All processes have ended when this returns or raises. Raises ProcessFailed, with the end of its log, where a process fails.
    """
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    studies = {way: shared(way, rounds, private) for way in FEDERATED}
    names = tuple(name.replace(" ", "-") for name in heart_disease().names)
    _explain(console, names, private)
    for way in studies:
        (folder / f"{way.lower()}.py").write_text(STUDY.format(way=way, rounds=rounds, private=private))
    with Processes(folder) as processes:
        port = str(free_port())
        where = ("--folder", "server", "--port", port, "--seed", str(FIRST_SEED), "--data-set", "heart_disease")
        processes.start("server", "serve", *(f"{way.lower()}.py" for way in studies), *where)
        log = folder / "server.log"
        processes.wait(lambda: "manent join" in log.read_text(), 90, "The server's invitation", ("server",))
        token = (folder / "server" / "invitation.txt").read_text().strip()
        for name, full in zip(names, heart_disease().names, strict=True):
            _found(folder, name, full, private)
            load = f"{name}.py:load"
            processes.start(name, "join", token, "--data", load, "--folder", name, "--name", name, "--data-set", "heart_disease")
        console.print(f"Server at https://127.0.0.1:{port}, and {len(names)} sites, processes of their own; logs in {folder}.\n")
        _follow(processes, studies, console)
        with suppress(ProcessFailed):  # otherwise a site's own database lacks the note that a study is over, no more
            processes.wait(lambda: all(_heard(folder / name, len(studies)) for name in names), 10, "The sites' last word")
    seconds = time.monotonic() - began
    return {way: _run(folder, study, seconds) for way, study in studies.items()}


def _explain(console: Console, names: tuple[str, ...], private: bool) -> None:
    """Say what is about to run, and what it hides from whom."""
    console.print(
        f"{listed(names)} work together over TLS, each with its own database, ledger and rules. By its rules, a hospital takes "
        f"part only where at least {FEWEST} are in each sum, and the server sees sums alone (secure aggregation).\n"
        f"What that means: of {FEWEST} in a sum, {FEWEST - 1} together with the server can subtract their own, and see the last "
        f"one's numbers; of four, three can. Of few, little is hidden; more hospitals would hide more."
    )
    if private:
        console.print(
            f"Every step of every hospital is noised for each patient: epsilon {EPSILON:g} a study (delta {DELTA:g}), which each "
            f"hospital sets aside in its own ledger before its data are touched."
        )
    console.print()


def _found(folder: Path, name: str, full: str, private: bool) -> None:
    """Write what a hospital has before it joins: its loader and its rules. It makes its key itself."""
    from manent.network.trust.identity import Identity

    (folder / f"{name}.py").write_text(LOAD.format(name=full))
    (folder / name).mkdir(mode=0o700)
    server = Identity.load(folder / "server" / "identity.key").public_hex
    guarded = GUARDED.format(epsilon=EPSILON, delta=DELTA, all=len(FEDERATED) * EPSILON)
    rules = RULES.format(name=full, server=server, fewest=FEWEST, privacy=guarded if private else OPEN)
    (folder / name / "policy.toml").write_text(rules)


def _follow(processes: Processes, studies: Mapping[str, Study], console: Console) -> None:
    """Show how far each study is, until all are over. Raises ProcessFailed where one fails, or no round ends for long."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"), TimeElapsedColumn())
    results, before, since = processes.folder / "server" / "results", 0, time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {study.hash: bars.add_task(way, total=study.rounds) for way, study in studies.items()}
        while not all((results / hash / "study.json").exists() for hash in tasks):
            processes.check()
            done = _rounds(processes.folder / "server.log")
            for hash, task in tasks.items():
                bars.update(task, completed=done.get(hash, 0))
            if sum(done.values()) > before:
                before, since = sum(done.values()), time.monotonic()
            if time.monotonic() > since + STILL:
                raise ProcessFailed(f"For {STILL:g} s, no round has ended.\n{processes.tail('server')}")
            time.sleep(0.1)
    for way, study in studies.items():
        facts = json.loads((results / study.hash / "study.json").read_text())
        if facts["phase"] != "finished":
            raise ProcessFailed(f"The study {way} failed: {facts['reason']}\n{processes.tail('server')}")


def _rounds(log: Path) -> dict[str, int]:
    """The last round of each study in which a sum has ended, by the study's hash, from the server's log."""
    found = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        if '"sum over"' in line and line.endswith("}"):  # not one that is being written
            values = json.loads(line)
            found[values["study"]] = int(values["round"])
    return found


def _heard(folder: Path, count: int) -> bool:
    """Whether a site knows that so many studies are over."""
    from manent.network.site.state import SiteState

    return sum(known.over for known in SiteState(folder).studies()) == count


def _run(folder: Path, study: Study, seconds: float) -> Run:
    """A study's run from what the server wrote. It has no probe: a server does not know what a simulation can look at."""
    from manent.network.trust.identity import Identity
    from manent.network.trust.roster import trusted

    result = folder / "server" / "results" / study.hash
    history = list(rows(result / "history.jsonl"))
    state = dict(load_file(result / "result.safetensors"))
    server = Identity.load(folder / "server" / "identity.key").public_hex
    statement = check(study, heart_disease()).deployed(trusted(server, quick_start=True))
    return Run(study, statement, state, history, (), seconds, result)


def budgets(folder: Path) -> list[str]:
    """What each hospital's own ledger says, a line each; no lines where no budget was set."""
    from manent.accounting import Ledger
    from manent.storage import open_store

    found = []
    for name in heart_disease().names:
        for one in Ledger(open_store(folder / name.replace(" ", "-") / "site.db")).summary():
            left = f", {one.reserved:.3g} set aside" if one.reserved else ""
            found.append(f"{name}: epsilon {one.spent:.3g} of {one.budget.epsilon:g} is spent{left}")
    return found
