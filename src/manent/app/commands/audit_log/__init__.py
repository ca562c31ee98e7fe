"""`manent audit-log`: what a server wrote down, and whether it is still unchanged."""

from __future__ import annotations

import typer

from manent.app.commands.audit_log import show, verify

audit_app = typer.Typer(
    no_args_is_help=True,
    help="What a server wrote down of joins, decisions, studies, releases, rosters and refused requests.\n\n"
    "[dim]manent audit-log verify server\n"
    "manent audit-log show server --last 20[/]",
)
audit_app.command()(verify.verify)
audit_app.command()(show.show)
