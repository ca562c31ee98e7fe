"""`manent audit-log show`: the rows of the log."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from manent.app.commands.options import ServerArgument
from manent.app.commands.stores import server_store
from manent.app.terminal import escaped


def show(
    server: ServerArgument,
    last: Annotated[int | None, typer.Option(min=1, help="So many rows at the end. (default: all)")] = None,
    actor: Annotated[str | None, typer.Option(help="Only rows of this actor.")] = None,
    action: Annotated[str | None, typer.Option(help="Only rows of this action, such as release.")] = None,
    about: Annotated[str | None, typer.Option(help="Only rows about this; the first letters will do.")] = None,
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
    """Whether a row is one of those that were asked for."""
    return actor in (None, row["actor"]) and action in (None, row["action"]) and row["about"].startswith(about or "")


def _line(row: dict[str, Any]) -> str:
    """A row for people. Strangers chose some of its texts."""
    told = {name: value for name, value in row["details"].items() if value not in ("", None)}
    details = " ".join(f"{escaped(name)}={json.dumps(value)}" for name, value in told.items())
    who, what, about = (escaped(row[name]) for name in ("actor", "action", "about"))
    return f"{row['sequence']:>6}  {row['time'][:19]}  {who}  {what}  {about}  {details}".rstrip()
