"""`manent studies list`: the studies that a person may see."""

from __future__ import annotations

import json

import typer

from manent.app.commands.options import AsJson
from manent.app.commands.studies.asking import Pin, Server, asking, study_line


def list_studies(server: Server, pin: Pin = None, as_json: AsJson = False) -> None:
    """The studies that you may see."""
    with asking(server, pin) as researcher:
        found = researcher.studies()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for one in found:
        typer.echo(study_line(one))
    if not found:
        typer.echo("There is no study that you may see. Submit one: manent studies submit --help")
