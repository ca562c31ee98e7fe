"""`manent data`: a look at data before a study."""

from __future__ import annotations

import typer

from manent.app.commands.data import describe

data_app = typer.Typer(no_args_is_help=True, help="Look at data before a study.\n\n[dim]manent data describe heart_disease[/]")
data_app.command()(describe.describe)
