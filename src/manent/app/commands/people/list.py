"""`manent people list`: everyone who has or had a token."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from manent.app.commands.options import AsJson, ServerArgument
from manent.app.commands.stores import server_store


def list_people(server: ServerArgument, as_json: AsJson = False) -> None:
    """Everyone who has or had a token."""
    from manent.network.trust.journal import time_text
    from manent.network.trust.people import People

    found = People(server_store(server)).list()
    if as_json:
        typer.echo(json.dumps([asdict(person) for person in found], indent=2))
        return
    width = max((len(person.name) for person in found), default=0)
    for person in found:
        until = "" if person.revoked is None else f", revoked {time_text(person.revoked)[:16]}"
        typer.echo(f"{person.name:{width}}  {person.role:13}  since {time_text(person.since)[:16]}{until}")
    if not found:
        typer.echo("Nobody has a token.")
