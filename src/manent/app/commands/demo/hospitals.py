"""`manent demo hospitals`: heart disease at four hospitals, with a report at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from manent.app.terminal import INTERRUPTED, say
from manent.core.errors import InvalidInput


def hospitals(
    folder: Annotated[Path | None, typer.Option(help="Where to write. (default: runs/hospitals-DATE-TIME)")] = None,
    seeds: Annotated[int, typer.Option(min=2, max=50, help="How often everything is trained anew.")] = 5,
    private: Annotated[
        bool, typer.Option("--private", help="Noise for each patient, on every step of learning together.")
    ] = False,
    simulate: Annotated[bool, typer.Option("--simulate", help="Learn together within one process, without a network.")] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of learning together, over the network. (default: 15)")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
) -> None:
    """Heart disease at four hospitals: each alone, all data together, and federated; writes a report.

    Starts a server and four hospitals on this machine: five processes that speak TLS. Each hospital has its own key, database and
    rules, and the server sees sums alone. All have stopped when it ends. It takes about a minute.

    [dim]manent demo hospitals
    manent demo hospitals --private --open
    manent demo hospitals --simulate --seeds 10[/]
    """
    from manent.app.demo.hospitals import demonstrate
    from manent.app.demo.ways import ROUNDS

    if simulate and (private or rounds is not None):
        raise InvalidInput("--private and --rounds are for the network; leave them out, or leave out --simulate.")
    try:
        report = demonstrate(folder, seeds, Console(highlight=False), simulate, private, rounds or ROUNDS)
    except KeyboardInterrupt:
        say("Stopped; nothing of it is running any more.")
        raise typer.Exit(INTERRUPTED) from None
    if show:
        typer.launch(str(report))
