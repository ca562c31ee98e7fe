"""`manent demo`: complete demonstrations on real data."""

from __future__ import annotations

import typer

from manent.app.commands.demo import hospitals

demo_app = typer.Typer(no_args_is_help=True, help="Complete demonstrations on real data.\n\n[dim]manent demo hospitals[/]")
demo_app.command()(hospitals.hospitals)
