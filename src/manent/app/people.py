"""`manent people`: who may ask a server for what."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from manent.app.stores import ServerArgument, operator, server_store
from manent.network.trust.journal import time_text

people_app = typer.Typer(
    no_args_is_help=True,
    help="People who ask a server for studies: their tokens, and what each may do.\n\n"
    "[dim]manent people add server alice --role researcher\n"
    "manent people list server[/]",
)
Name = Annotated[str, typer.Argument(help="Of the person: letters, digits, dots, dashes and underscores.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(people_app, name="people")


@people_app.command()
def add(
    server: ServerArgument,
    name: Name,
    role: Annotated[str, typer.Option(help="viewer, researcher or administrator.")],
) -> None:
    """Give someone a token. It is shown once, and kept nowhere.

    A viewer sees statements and histories, without models. A researcher submits studies, and sees and stops only their own. An
    administrator does everything.

    [dim]manent people add server alice --role researcher[/]
    """
    from manent.network.trust.people import People

    token = People(server_store(server)).create(name, role, operator())
    typer.echo(
        f"{name} is a {role} now. The token, which is not shown again; it goes into the header\nAuthorization: Bearer {token}"
    )


@people_app.command("list")
def list_them(
    server: ServerArgument, as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False
) -> None:
    """Everyone who has or had a token."""
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


@people_app.command()
def revoke(server: ServerArgument, name: Name) -> None:
    """Take back someone's token. It counts at once, also while the server runs."""
    from manent.network.trust.people import People

    People(server_store(server)).revoke(name, operator())
    typer.echo(f"The token of {name} does not hold any more.")
