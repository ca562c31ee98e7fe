"""The command line."""

from __future__ import annotations

import errno
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from manent.app import audit, join, people, privacy, receipts, roster, serve, site, storm, studies
from manent.core.errors import ClientFailed, InvalidInput, ManentError, MissingExtra

INTERRUPTED = 130
EXTRAS = {
    "httpx": "network",
    "http_message_signatures": "network",
    "uvicorn": "network",
    "fastapi": "server",
    "starlette": "server",
    "prometheus_client": "server",
}
"""The extra that brings a package, for commands that need the whole of it."""


class _Commands(TyperGroup):
    """Commands whose errors are a message, not a traceback: exit code 2 for invalid input, 1 for the rest."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ManentError as error:
            _say(f"[bold red]Error:[/] {escape(message(error))}")
            raise typer.Exit(2 if isinstance(error, InvalidInput) else 1) from None
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS:
                raise
            _say(f"[bold red]Error:[/] {escape(str(MissingExtra(package, EXTRAS[package], 'This command')))}")
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            _say(f"[bold red]Error:[/] {escape(f'{error.filename}: {error.strerror}' if error.filename else str(error))}")
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Private federated learning and analytics: models and questions travel to the data; the data stay.\n\n"
    "A study file is Python that defines `study` and `data`. First look: [bold]manent demo hospitals[/]",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data before a study.\n\n[dim]manent data describe heart_disease[/]")
demo_app = typer.Typer(no_args_is_help=True, help="Complete demonstrations on real data.\n\n[dim]manent demo hospitals[/]")
app.add_typer(data_app, name="data")
app.add_typer(demo_app, name="demo")

Sets = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting; may be repeated.")]
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY.py", help="Python that defines `study` and `data`.")]


def message(error: ManentError) -> str:
    """An error for people: of a client's failure only what happened, as its folder keeps the rest."""
    if isinstance(error, ClientFailed):
        kept = f" Its inputs, and where it was raised, are kept in {error.folder}." if error.folder else ""
        reason = error.reason.splitlines()[0] if error.reason else "no reason given"
        return f"Client {error.client!r} failed in round {error.round}, stage {error.stage!r}: {reason}{kept}"
    return str(error)


def _say(text: str) -> None:
    Console(file=sys.stderr, soft_wrap=True, highlight=False).print(text)


def _show(content: Any) -> None:
    Console(file=sys.stdout, highlight=False).print(content)


def _version(asked: bool) -> None:
    if asked:
        from manent import __version__

        typer.echo(f"manent {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Options of the program as a whole."""


@app.command()
def run(
    study: Annotated[Path | None, typer.Argument(metavar="[STUDY.py]", help="Python that defines `study` and `data`.")] = None,
    sets: Sets = None,
    seed: Annotated[
        int | None, typer.Option(help="Of everything repeatable: cohorts, data order, first weights. (default: 0)")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes; the result does not depend on it. (default: one a processor)")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to keep the run. (default: runs/NAME-DATE-TIME)")] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(min=1, help="Rounds between two looks at the test parts. (default: 1)")
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(help="Ledger that keeps the data set's budget, by `manent budget`; reserved before anything runs."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Go on with the run in this folder.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Run a study on this machine, or go on with one that was stopped.

    [dim]manent run examples/hospitals.py --set rounds=30 --set algorithm.local.lr=0.01
    manent run my_private_study.py --ledger ledger.db
    manent run --resume runs/hospitals-20270101-120000[/]
    """
    from manent.app.launch import Launch, begin, reopen
    from manent.app.outcome import outcome

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
        _say(f"Stopped. Nothing is lost; go on with: [bold]manent run --resume {escape(shlex.quote(str(prepared.folder)))}[/]")
        raise typer.Exit(INTERRUPTED) from None
    if not quiet:
        _show(outcome(ended, prepared.declared.data))


@app.command()
def check(
    study: StudyArgument,
    sets: Sets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """Check a study against its data, and state who will see what. Nothing is run.

    [dim]manent check examples/hospitals.py
    manent check examples/hospitals.py --set rounds=100 --json[/]
    """
    from manent.app.studyfile import load_study
    from manent.privacy.check import check as state

    declared = load_study(study, sets or ())
    statement = state(declared.study, declared.data)
    typer.echo(json.dumps(statement.to_plain(), indent=2, ensure_ascii=False) if as_json else str(statement))


@app.command()
def plot(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders that runs wrote.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to draw into, .png, .svg or .pdf. (default: in the folder, or runs.png)"),
    ] = None,
) -> None:
    """Draw runs, finished or under way, beside each other: by round, by data sent and by time.

    [dim]manent plot runs/hospitals-20270101-120000
    manent plot runs/fedavg runs/fedadam -o compared.png[/]
    """
    from manent.app.launch import compare

    target = output or (folders[0] / "plots" / "run.png" if len(folders) == 1 else Path("runs.png"))
    compare(folders, target)
    typer.echo(f"Drawn into {target}")


@data_app.command()
def describe(
    source: Annotated[str, typer.Argument(metavar="STUDY.py|NAME", help="A study file, or a data set such as heart_disease.")],
    plot: Annotated[Path | None, typer.Option(help="Also draw it into this file.")] = None,
) -> None:
    """What a person planning a study needs to know: sizes, labels, base rates, how much clients differ.

    [dim]manent data describe heart_disease
    manent data describe my_study.py --plot data.png[/]
    """
    from manent.app.named import federation
    from manent.engines.plots import save

    description = federation(source).describe()
    _show(description)
    if plot is not None:
        save(description.plot(), plot)
        typer.echo(f"Drawn into {plot}")


@demo_app.command()
def hospitals(
    folder: Annotated[Path | None, typer.Option(help="Where to write. (default: runs/hospitals-DATE-TIME)")] = None,
    seeds: Annotated[int, typer.Option(min=2, max=50, help="How often everything is trained anew.")] = 5,
    private: Annotated[
        bool, typer.Option("--private", help="Noise for each patient, on every step of learning together.")
    ] = False,
    simulate: Annotated[bool, typer.Option("--simulate", help="Learn together within one process, without a network.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Of learning together, over the network. (default: 15)")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
) -> None:
    """Heart disease at four hospitals: each alone, all data together, and federated; writes a report.

    Starts a server and four hospitals on this machine, five processes that speak TLS; each hospital has its own key, database and
    rules, and the server sees sums alone. All have stopped when it ends. About a minute.

    [dim]manent demo hospitals
    manent demo hospitals --private --open
    manent demo hospitals --simulate --seeds 10[/]
    """
    from manent.app.hospitals import ROUNDS, demonstrate

    if simulate and (private or rounds is not None):
        raise InvalidInput("--private and --rounds are of the network; leave them out, or leave out --simulate.")
    try:
        report = demonstrate(folder, seeds, Console(highlight=False), simulate, private, rounds or ROUNDS)
    except KeyboardInterrupt:
        _say("Stopped; nothing of it is running any more.")
        raise typer.Exit(INTERRUPTED) from None
    if show:
        typer.launch(str(report))


audit.add_to(app)
join.add_to(app)
people.add_to(app)
privacy.add_to(app)
receipts.add_to(app)
roster.add_to(app)
serve.add_to(app)
site.add_to(app)
storm.add_to(app)
studies.add_to(app)


def main() -> None:
    """The entry point `manent`."""
    app(prog_name="manent")
