"""`manent storm`: a protocol under seeded faults."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from manent.storm import Outcome, ScenarioFactory, Verdict

LINES = 40
"""Lines of a failure's trace that are printed."""
SHOWN = 10
"""Failing seeds that are named."""
REDRAWN = 0.2
"""Seconds between two drawings of the progress bar."""


def storm(
    scenario: Annotated[str, typer.Option(help="The protocol that is put into the storm.")] = "secagg",
    seed: Annotated[int | None, typer.Option(min=0, help="Replay only the round with this seed, and print its trace.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds, one for each seed.")] = 1000,
    start: Annotated[int, typer.Option(min=0, help="The first round's seed.")] = 0,
    trace: Annotated[
        bool, typer.Option("--trace", help=f"Print the first failure's whole trace, not only its last {LINES} lines.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; the result does not depend on it. (default: one a processor)")
    ] = None,
) -> None:
    """Run a protocol while messages are lost, late and repeated, and parties crash.

    Time, network and disks are simulated. Everything about a round follows
    from its seed: how bad the storm is, what is lost, who crashes and when.
    After each round its invariants are checked. A seed that fails is printed
    with the command that replays it, and the exit code is 1.

    [dim]manent storm --rounds 10000
    manent storm --seed 4711[/]
    """
    from manent.storm import run
    from manent.storm import scenario as named

    factory = named(scenario)
    if seed is not None:
        sound = _replay(factory, seed, None)
    else:
        seeds, began = range(start, start + rounds), time.monotonic()
        with _progress() as bar:
            outcome = run(factory, seeds, workers=workers or os.cpu_count() or 1, told=_teller(bar, rounds))
        _summarise(scenario, outcome, seeds, time.monotonic() - began)
        sound = not outcome.failures
        if not sound:
            first = outcome.failures[0].seed
            typer.echo()
            _replay(factory, first, None if trace else LINES)
            typer.echo(f"Replay: manent storm --scenario {shlex.quote(scenario)} --seed {first}")
    if not sound:
        raise typer.Exit(1)


def _progress() -> Progress:
    """A progress bar that is drawn only by `refresh`: a thread of its own must not be running when the workers fork."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"))
    console = Console(file=sys.stderr)
    hidden = not sys.stderr.isatty()
    return Progress(*columns, TimeRemainingColumn(compact=True), console=console, auto_refresh=False, disable=hidden)


def _teller(bar: Progress, rounds: int) -> Callable[[Verdict], None]:
    """What to call with each verdict, so that the bar shows it."""
    task, drawn, failed = bar.add_task("storm", total=rounds, failed=""), 0.0, 0

    def told(verdict: Verdict) -> None:
        """Count a verdict, and redraw the bar now and then."""
        nonlocal drawn, failed
        failed += bool(verdict.violations)
        bar.update(task, advance=1, failed=f"[red]{failed} failed" if failed else "")
        if time.monotonic() - drawn > REDRAWN:
            drawn = time.monotonic()
            bar.refresh()

    return told


def _replay(factory: ScenarioFactory, seed: int, last: int | None) -> bool:
    """Run one round and print its faults, its trace and the verdict. Returns whether every invariant held.

    Args:
        last: print so many lines at the end of the trace; None prints all.
    """
    from manent.storm import play
    from manent.storm.trace import text

    world, verdict = play(factory, seed)
    typer.echo(f"faults: {world.faults}\n{text(world.trace, last)}\n\nseed {seed} ended: {verdict.outcome}")
    for violation in verdict.violations:
        typer.echo(f"VIOLATED {violation}")
    if not verdict.violations:
        typer.echo("Every invariant held.")
    return not verdict.violations


def _summarise(scenario: str, outcome: Outcome, seeds: range, seconds: float) -> None:
    """Print how many rounds ended how, which faults they met, and which seeds failed."""

    def listed(counts: dict[str, int]) -> str:
        """Names with their counts."""
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())

    speed = outcome.rounds / max(seconds, 1e-9)
    typer.echo(f"{outcome.rounds:,} rounds of {scenario}, seeds {seeds[0]} to {seeds[-1]}, {speed:,.0f} a second")
    typer.echo(f"ended:  {listed(outcome.outcomes)}")
    typer.echo(f"met:    {listed(outcome.met) or 'no fault'}")
    if not outcome.failures:
        typer.echo("failed: none; every invariant held in every round")
        return
    failing = [str(verdict.seed) for verdict in outcome.failures]
    more = f" and {len(failing) - SHOWN:,} more" if len(failing) > SHOWN else ""
    typer.echo(f"FAILED: {len(failing):,} rounds ({listed(outcome.violations())}); seeds {', '.join(failing[:SHOWN])}{more}")
