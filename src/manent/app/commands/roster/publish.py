"""`manent roster publish`: a signed roster, handed to a server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from manent.app.commands.options import ServerArgument
from manent.app.commands.roster.options import counted, date, rosters_of
from manent.app.commands.stores import server_store


def publish(
    server: ServerArgument,
    file: Annotated[Path, typer.Argument(metavar="ROSTER.json", help="As `manent roster sign` wrote it.")],
) -> None:
    """Hand in a signed roster, also while the server runs. To be run on the server, which refuses an older one than it has.

    [dim]manent roster publish server roster.json[/]
    """
    from manent.network.trust.roster import read_roster

    signed = read_roster(file)
    taken = rosters_of(server_store(server)).publish(signed, time.time())
    count = counted(len(signed.entries))
    if taken:
        typer.echo(f"Roster {signed.number} of {count} is in force, until {date(signed.expires)}.")
    else:
        typer.echo(f"Roster {signed.number} of {count} was in force already.")
