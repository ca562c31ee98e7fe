"""`manent roster waiting`: who asked to join a server."""

from __future__ import annotations

import typer

from manent.app.commands.options import ServerArgument
from manent.app.commands.roster.options import rosters_of
from manent.app.commands.stores import server_store


def waiting(server: ServerArgument) -> None:
    """Who asked a server to join, and is not on its roster. To be run on the server.

    What it prints was said by whoever had an invitation: compare each key with what the site's own people read out to you.

    [dim]manent roster waiting server[/]
    """
    store = server_store(server)
    rosters = rosters_of(store)
    with store.snapshot() as view:
        number, found = rosters.newest(view), rosters.waiting(view)
    typer.echo(f"Roster {number}; waiting: {len(found)}." if number else f"No roster yet; waiting: {len(found)}.")
    for public, name in sorted(found.items(), key=lambda item: item[1]):
        typer.echo(f"  manent roster add {name} {public}")
