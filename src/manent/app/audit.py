"""`manent audit-log`: what a server wrote down, and whether it is still so."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from manent.app.stores import ServerArgument, server_store

audit_app = typer.Typer(
    no_args_is_help=True,
    help="What a server wrote down of joins, decisions, studies, releases, rosters and refused requests.\n\n"
    "[dim]manent audit-log verify server\n"
    "manent audit-log show server --last 20[/]",
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(audit_app, name="audit-log")


@audit_app.command()
def verify(
    server: ServerArgument,
    noted: Annotated[
        str | None, typer.Option(metavar="COUNT:HASH", help="What this printed earlier: the log must be that one still.")
    ] = None,
) -> None:
    """Find rows that were altered, removed or moved by hand; exit code 1 where there is one.

    Someone who may write to the whole database can cut off the end of the log, or write another. Note what this prints somewhere
    else from time to time, and compare with --noted.

    [dim]manent audit-log verify server
    manent audit-log verify server --noted 120:9f86d0...[/]
    """
    from manent.network.trust.journal import AuditLog

    log = AuditLog(server_store(server))
    count = log.verify(noted)
    typer.echo(f"{count:,} rows, each as it was written{', and those that were noted' if noted else ''}.")
    typer.echo(f"To be noted elsewhere: {log.head()}")


@audit_app.command()
def show(
    server: ServerArgument,
    last: Annotated[int | None, typer.Option(min=1, help="So many rows at the end. (default: all)")] = None,
    actor: Annotated[str | None, typer.Option(help="Rows of this one alone.")] = None,
    action: Annotated[str | None, typer.Option(help="Rows of this action alone, as release.")] = None,
    about: Annotated[str | None, typer.Option(help="Rows about this alone; the first letters will do.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs, a row a line.")] = False,
) -> None:
    """The rows, checked as `verify` does.

    [dim]manent audit-log show server --action refused --last 20[/]
    """
    from manent.network.trust.journal import AuditLog

    rows = [row for row in AuditLog(server_store(server)).rows() if _asked(row, actor, action, about)]
    for row in rows[-last:] if last else rows:
        typer.echo(json.dumps(row) if as_json else _line(row))


def _asked(row: dict[str, Any], actor: str | None, action: str | None, about: str | None) -> bool:
    return actor in (None, row["actor"]) and action in (None, row["action"]) and row["about"].startswith(about or "")


def _line(row: dict[str, Any]) -> str:
    # Strangers chose some of these texts; in JSON's own escapes they cannot change a terminal.
    told = {name: value for name, value in row["details"].items() if value not in ("", None)}
    details = " ".join(f"{json.dumps(name)[1:-1]}={json.dumps(value)}" for name, value in told.items())
    who, what, about = (json.dumps(row[name])[1:-1] for name in ("actor", "action", "about"))
    return f"{row['sequence']:>6}  {row['time'][:19]}  {who}  {what}  {about}  {details}".rstrip()
