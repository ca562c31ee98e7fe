"""`manent data describe`: what a person who plans a study needs to know of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manent.app.terminal import show


def describe(
    source: Annotated[str, typer.Argument(metavar="STUDY.py|NAME", help="A study file, or a data set such as heart_disease.")],
    plot: Annotated[Path | None, typer.Option(help="Also draw it into this file.")] = None,
) -> None:
    """What a person planning a study needs to know: sizes, labels, base rates, how much clients differ.

    [dim]manent data describe heart_disease
    manent data describe my_study.py --plot data.png[/]
    """
    from manent.app.study.named import federation
    from manent.engines.plots import save

    description = federation(source).describe()
    show(description)
    if plot is not None:
        save(description.plot(), plot)
        typer.echo(f"Drawn into {plot}")
