"""`manent studies`: studies at a server, for the people who submit them."""

from __future__ import annotations

import typer

from manent.app.commands.studies import history, result, show, statement, stop, submit
from manent.app.commands.studies.asking import TOKEN
from manent.app.commands.studies.list import list_studies

studies_app = typer.Typer(
    no_args_is_help=True,
    help="Studies at a server: submit them, see how they stand, fetch their results.\n\n"
    "The server's operator gives you three things, which these commands read from the environment: MANENT_SERVER, its URL; "
    f"MANENT_PIN, the hash of its certificate, where it made that itself; and {TOKEN}, your token, by manent people add.\n\n"
    "[dim]manent studies submit study.py --sites 4\n"
    "manent studies list\n"
    "manent studies result 6d8f7a -o model.safetensors[/]",
)
studies_app.command()(submit.submit)
studies_app.command("list")(list_studies)
for command in (show.show, statement.statement, history.history, stop.stop, result.result):
    studies_app.command()(command)
