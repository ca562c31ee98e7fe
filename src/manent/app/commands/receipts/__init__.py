"""`manent receipts`: what a site sent, and under which guarantee."""

from __future__ import annotations

import typer

from manent.app.commands.receipts import export, verify

receipts_app = typer.Typer(
    no_args_is_help=True,
    help="A site's receipts: one for each sum to which it sent its vector.\n\n"
    "[dim]manent receipts verify site\n"
    "manent receipts export site > receipts.jsonl[/]",
)
receipts_app.command()(verify.verify)
receipts_app.command()(export.export)
