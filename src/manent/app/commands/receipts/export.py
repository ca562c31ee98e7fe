"""`manent receipts export`: the receipts as they were signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manent.app.commands.receipts.sources import of_folder


def export(folder: Annotated[Path, typer.Argument(help="A site's folder.")]) -> None:
    """Print the receipts as they were signed, one a line, for whoever is to check them.

    [dim]manent receipts export site > receipts.jsonl[/]
    """
    for row in of_folder(folder, None)[0]:
        typer.echo(row.decode())
