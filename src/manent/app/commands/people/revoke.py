"""`manent people revoke`: a token taken back."""

from __future__ import annotations

import typer

from manent.app.commands.options import ServerArgument
from manent.app.commands.people.options import Name
from manent.app.commands.stores import operator, server_store


def revoke(server: ServerArgument, name: Name) -> None:
    """Take back someone's token. It stops working at once, also while the server runs."""
    from manent.network.trust.people import People

    People(server_store(server)).revoke(name, operator())
    typer.echo(f"The token of {name} does not hold any more.")
