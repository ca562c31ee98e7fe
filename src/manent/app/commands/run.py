"""`manent run`: a study on this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from manent.app.commands.options import Sets
from manent.app.terminal import INTERRUPTED, say, show
from manent.core.errors import InvalidInput


def run(
    study: Annotated[Path | None, typer.Argument(metavar="[STUDY.py]", help="Python that defines `study` and `data`.")] = None,
    sets: Sets = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything repeatable: cohorts, data order, first weights. (default: 0)")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes; the result does not depend on it. (default: one a processor)")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to keep the run. (default: runs/NAME-DATE-TIME)")] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(min=1, help="Evaluate on the test parts once every so many rounds. (default: 1)")
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            help="The ledger with the data set's budget (see `manent budget`). The cost is reserved before anything runs."
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Go on with the run in this folder.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Run a study on this machine, or go on with one that was stopped.

    [dim]manent run examples/hospitals.py --set rounds=30 --set algorithm.local.lr=0.01
    manent run my_private_study.py --ledger ledger.db
    manent run --resume runs/hospitals-20270101-120000[/]
    """
    from manent.app.study.launch import Launch, begin, reopen
    from manent.app.study.outcome import outcome

    if (study is None) == (resume is None):
        raise InvalidInput("Give a study file to run, or --resume FOLDER to go on with one; not both.")
    if resume is not None:
        if sets or any(given is not None for given in (seed, folder, evaluate_every, ledger)):
            raise InvalidInput(
                "--resume takes the study, --set, --seed, --evaluate-every and --ledger from the folder; leave them out."
            )
        prepared = reopen(resume, workers)
    else:
        file, book = str(study and study.absolute()), None if ledger is None else str(ledger.absolute())
        launch = Launch(file, tuple(sets or ()), seed or 0, workers, evaluate_every or 1, book)
        prepared = begin(launch, folder)
    try:
        ended = prepared.run(quiet)
    except KeyboardInterrupt:
        say(f"Stopped. Nothing is lost; go on with: [bold]manent run --resume {escape(shlex.quote(str(prepared.folder)))}[/]")
        raise typer.Exit(INTERRUPTED) from None
    if not quiet:
        show(outcome(ended, prepared.declared.data))
