"""`manent studies result`: what a finished study has come to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manent.app.commands.studies.asking import Pin, Server, Which, asking


def result(
    study: Which,
    server: Server,
    output: Annotated[Path, typer.Option("--output", "-o", help="A new file for it, safetensors.")] = Path("model.safetensors"),
    pin: Pin = None,
) -> None:
    """Fetch the result of a finished study."""
    with asking(server, pin) as researcher:
        researcher.result(researcher.find(study), output)
    typer.echo(f"Written to {output}")
