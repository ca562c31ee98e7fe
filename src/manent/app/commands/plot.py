"""`manent plot`: runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plot(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders that runs wrote.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to draw into, .png, .svg or .pdf. (default: in the folder, or runs.png)"),
    ] = None,
) -> None:
    """Draw runs, finished or under way, beside each other: by round, by data sent and by time.

    [dim]manent plot runs/hospitals-20270101-120000
    manent plot runs/fedavg runs/fedadam -o compared.png[/]
    """
    from manent.app.study.launch import compare

    target = output or (folders[0] / "plots" / "run.png" if len(folders) == 1 else Path("runs.png"))
    compare(folders, target)
    typer.echo(f"Drawn into {target}")
