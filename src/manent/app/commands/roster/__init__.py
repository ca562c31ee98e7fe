"""`manent roster`: who may take part, signed by the consortium."""

from __future__ import annotations

import typer

from manent.app.commands.roster import add, init, publish, remove, show, sign, waiting

roster_app = typer.Typer(
    no_args_is_help=True,
    help="Who may take part: a numbered list of sites that expires, signed by the consortium.\n\n"
    "On the machine with the key, which needs no network:\n\n"
    "[dim]manent roster init heart-consortium\n"
    "manent roster add karolinska 5f1c...   (as `manent site init` prints it there)\n"
    "manent roster sign                     (writes roster.json, to be carried to the server)[/]\n\n"
    "On the server:\n\n"
    "[dim]manent serve study.py --consortium 9f86...\n"
    "manent roster waiting server\n"
    "manent roster publish server roster.json[/]",
)
for command in (init.init, add.add, remove.remove, sign.sign, waiting.waiting, publish.publish, show.show):
    roster_app.command()(command)
