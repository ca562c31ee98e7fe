"""`manent site`: a site's identity and rules, what it is asked, what it has spent."""

from __future__ import annotations

import typer

from manent.app.commands.site import budget, init, join, leave, review, run, status
from manent.app.commands.site.test import try_out

site_app = typer.Typer(
    no_args_is_help=True,
    help="A site of a federation: its identity, its rules, what it is asked to do.\n\n"
    "[dim]manent site init karolinska\n"
    "manent site join manent-join-1.AbC...\n"
    "manent site run --data load.py:load\n"
    "manent site status                    (which studies ask for something)\n"
    "manent site test 4f6a --data load.py:load\n"
    "manent site review 4f6a --approve[/]",
)
for command in (init.init, join.join, run.run, status.status, budget.budget, review.review, leave.leave):
    site_app.command()(command)
site_app.command("test")(try_out)
