"""`manent studies stop`: a study ended before its time."""

from __future__ import annotations

import typer

from manent.app.commands.studies.asking import Pin, Server, Which, asking


def stop(study: Which, server: Server, pin: Pin = None) -> None:
    """End a study before its time. What its sums have spent stays spent."""
    with asking(server, pin) as researcher:
        hash = researcher.find(study)
        researcher.stop(hash)
    typer.echo(f"Study {hash[:16]} is stopped.")
