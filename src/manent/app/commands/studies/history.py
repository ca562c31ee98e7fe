"""`manent studies history`: a study's sums so far."""

from __future__ import annotations

import json

import typer

from manent.app.commands.studies.asking import Pin, Server, Which, asking


def history(study: Which, server: Server, pin: Pin = None) -> None:
    """What became of each sum so far, a line of JSON each."""
    with asking(server, pin) as researcher:
        for row in researcher.history(researcher.find(study)):
            typer.echo(json.dumps(row))
