"""`manent audit-log verify`: whether the log is still as it was written."""

from __future__ import annotations

from typing import Annotated

import typer

from manent.app.commands.options import ServerArgument
from manent.app.commands.stores import server_store


def verify(
    server: ServerArgument,
    noted: Annotated[
        str | None,
        typer.Option(metavar="COUNT:HASH", help="What this printed earlier: the log must still begin with those rows."),
    ] = None,
) -> None:
    """Find rows that were altered, removed or moved by hand; exit code 1 where there is one.

    Someone who may write to the whole database can cut off the end of the log, or replace it. So keep what this prints somewhere
    else from time to time, and compare with --noted.

    [dim]manent audit-log verify server
    manent audit-log verify server --noted 120:9f86d0...[/]
    """
    from manent.network.trust.journal import AuditLog

    log = AuditLog(server_store(server))
    count = log.verify(noted)
    typer.echo(f"{count:,} rows, each as it was written{', and those that were noted' if noted else ''}.")
    typer.echo(f"To be noted elsewhere: {log.head()}")
