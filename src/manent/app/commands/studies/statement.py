"""`manent studies statement`: who sees what in a study."""

from __future__ import annotations

import typer

from manent.app.commands.studies.asking import Pin, Server, Which, asking


def statement(study: Which, server: Server, pin: Pin = None) -> None:
    """Who sees what in a study, as the server derives it. Each site derives its own."""
    with asking(server, pin) as researcher:
        typer.echo(researcher.statement(researcher.find(study)))
