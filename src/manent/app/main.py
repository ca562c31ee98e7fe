"""The program `manent`: its commands, and how errors end it."""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from manent.app.commands import add_to
from manent.app.terminal import message, say
from manent.core.errors import InvalidInput, ManentError, MissingExtra

EXTRAS = {
    "httpx": "network",
    "http_message_signatures": "network",
    "uvicorn": "network",
    "fastapi": "server",
    "starlette": "server",
    "prometheus_client": "server",
}
"""The extra that installs a package, by package; for commands that need all of the extra."""


class _Commands(TyperGroup):
    """Commands whose errors are a message, not a traceback. The exit code is 2 for invalid input, 1 for the rest."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Errors that are not the user's or a peer's are raised, with their traceback."""
        try:
            return super().invoke(ctx)
        except ManentError as error:
            _refuse(message(error))
            raise typer.Exit(2 if isinstance(error, InvalidInput) else 1) from None
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS:
                raise
            _refuse(str(MissingExtra(package, EXTRAS[package], "This command")))
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            raise typer.Exit(1) from None


def _refuse(text: str) -> None:
    """Print an error to standard error."""
    say(f"[bold red]Error:[/] {escape(text)}")


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Private federated learning and analytics: models and questions travel to the data; the data stay.\n\n"
    "A study file is Python that defines `study` and `data`. First look: [bold]manent demo hospitals[/]",
)


def _version(asked: bool) -> None:
    """Print the version and leave, where it was asked for."""
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


add_to(app)


def main() -> None:
    """The entry point `manent`."""
    app(prog_name="manent")
