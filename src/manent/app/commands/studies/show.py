"""`manent studies show`: how a study stands."""

from __future__ import annotations

import json

import typer

from manent.app.commands.options import AsJson
from manent.app.commands.studies.asking import Pin, Server, Which, asking, study_line, sum_line
from manent.app.terminal import printable


def show(study: Which, server: Server, pin: Pin = None, as_json: AsJson = False) -> None:
    """How a study stands, and what each site has decided, with its reason."""
    with asking(server, pin) as researcher:
        found = researcher.about(researcher.find(study))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(study_line(found))
    if "sum" in found:
        typer.echo(sum_line(found["sum"]))
    for site, decision in sorted(found.get("decisions", {}).items()):
        told = "takes part" if decision["accepted"] else "refuses: " + printable(decision["reason"])
        typer.echo(f"  {printable(site)}: {told}")
