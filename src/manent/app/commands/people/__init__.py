"""`manent people`: who may ask a server for what."""

from __future__ import annotations

import typer

from manent.app.commands.people import add, revoke
from manent.app.commands.people.list import list_people

people_app = typer.Typer(
    no_args_is_help=True,
    help="People who ask a server for studies: their tokens, and what each may do.\n\n"
    "[dim]manent people add server alice --role researcher\n"
    "manent people list server[/]",
)
people_app.command()(add.add)
people_app.command("list")(list_people)
people_app.command()(revoke.revoke)
