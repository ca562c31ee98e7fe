"""The demonstration on four hospitals: each alone, all data in one place, and federated, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from manent.app.demo.findings import Findings
from manent.app.demo.learning import find
from manent.app.demo.report import write_report
from manent.app.demo.ways import ALONE, FEDERATED, FIRST_SEED, POOLED, ROUNDS
from manent.app.demo.words import correctness, exceptions, headline
from manent.app.study.launch import default_folder
from manent.app.study.outcome import who_saw_what
from manent.core.errors import InvalidInput, MissingExtra
from manent.engines import Run


def demonstrate(
    folder: Path | None, seeds: int, console: Console, simulated: bool = False, private: bool = False, rounds: int = ROUNDS
) -> Path:
    """Train, compare, and write report.html and results.json. Returns the report's path.

    Args:
        folder: a folder without a report; None takes runs/hospitals-DATE-TIME.
        seeds: how many trainings of each way.
        simulated: learn together in a simulation, once for each seed, instead of once between processes over TLS.
        private: add noise for each patient; over the network only.
        rounds: of learning together; over the network only.

    Raises InvalidInput for a folder that holds a report already, MissingExtra where a package of the network is not installed,
    and ProcessFailed where a process of the federation fails.
    """
    began = time.monotonic()
    where = folder or default_folder("hospitals")
    if (where / "report.html").exists() or (where / "federation").exists():
        raise InvalidInput(f"{where} already holds a report; give another --folder.")
    if not simulated:
        check_network()
    where.mkdir(parents=True, exist_ok=True)
    console.print(f"Four hospitals, 740 patients, one question: who has coronary disease? {_times(seeds, simulated)}\n")
    together_as = None if simulated else _over_the_network(where.absolute() / "federation", rounds, private, console)
    findings = find(tuple(range(FIRST_SEED, FIRST_SEED + seeds)), where, console, together_as)
    (where / "results.json").write_text(json.dumps(findings.to_plain(), indent=1))
    report = write_report(findings, where, time.monotonic() - began)
    console.print(side_by_side(findings))
    console.print(f"[bold]{headline(findings)}[/]\n")
    for sentence in (exceptions(findings), correctness(findings), who_saw_what(findings.statement)):
        console.print(f"{sentence}\n" if sentence else "", end="\n" if sentence else "")
    console.print(f"The report, with plots: [cyan]{report}[/]  ({time.monotonic() - began:.0f} s)")
    return report


def check_network() -> None:
    """Raises MissingExtra where a package that a server or a site needs is not installed."""
    try:
        import manent.network.server.serving
        import manent.network.site.agent  # noqa: F401
    except ImportError as error:
        purpose = "Learning together over a network (without it, in one process: manent demo hospitals --simulate)"
        raise MissingExtra(str(error.name), "server", purpose) from None


def _times(seeds: int, simulated: bool) -> str:
    """How often everything is trained, in a sentence."""
    alone = f"Training {seeds} times in each way."
    return alone if simulated else f"{alone[:-1]}; together once, over a network."


def _over_the_network(folder: Path, rounds: int, private: bool, console: Console) -> Mapping[str, Run]:
    """Learn together as a federation of processes, and print what the hospitals' ledgers say afterwards."""
    from manent.app.demo import federation

    runs = federation.train(folder, rounds, private, console)
    for line in federation.budgets(folder):
        console.print(line)
    console.print(f"All processes have stopped. What each kept: [cyan]{folder}[/]\n")
    return runs


def side_by_side(findings: Findings) -> Table:
    """A table with a row for each centre: AUC and accuracy of each way, as mean and standard deviation over seeds."""
    ways = (ALONE, POOLED, *FEDERATED)
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title="Each centre's test patients: mean and sd over trainings" + (", together of one" if findings.once else ""),
        caption="AUC: how well ill are told from healthy; 0.5 is a coin. Base: giving everyone the commoner diagnosis.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for column in ("ill/all", "base", *ways):
        table.add_column(column, justify="right", no_wrap=True)
    for metric in ("auc", "accuracy"):
        table.add_row(f"[bold]{'AUC' if metric == 'auc' else 'Accuracy'}[/]")
        for centre in findings.centres:
            y = findings.labels[centre]
            values = [findings.metric(metric, way, centre) for way in ways]
            cells = [f"{v.mean():.2f}" + (f" ±{v.std():.2f}" if len(v) > 1 else "") for v in values]
            rate = f"{findings.commonest(centre):.2f}" if metric == "accuracy" else ""
            table.add_row(f" {centre}", f"{int(y.sum())}/{len(y)}", rate, *cells, end_section=centre == findings.centres[-1])
    return table
