"""`manent people add`: a token for a person."""

from __future__ import annotations

from typing import Annotated

import typer

from manent.app.commands.options import ServerArgument
from manent.app.commands.people.options import Name
from manent.app.commands.stores import operator, server_store


def add(
    server: ServerArgument,
    name: Name,
    role: Annotated[str, typer.Option(help="viewer, researcher or administrator.")],
) -> None:
    """Give someone a token. It is shown once, and kept nowhere.

    A viewer sees statements and histories, without models. A researcher submits studies, and sees and stops only their own. An
    administrator does everything.

    [dim]manent people add server alice --role researcher[/]
    """
    from manent.network.trust.people import People

    token = People(server_store(server)).create(name, role, operator())
    typer.echo(
        f"{name} is a {role} now. The token, which is not shown again; it goes into the header\nAuthorization: Bearer {token}"
    )
