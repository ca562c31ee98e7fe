"""Stores that commands are pointed at: a server's, by its folder, its file or its URL."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manent.core.errors import InvalidInput

if TYPE_CHECKING:
    from manent.core.store import Store

ServerArgument = Annotated[str, typer.Argument(metavar="SERVER", help="The server's folder, or the URL of its database.")]


def server_store(server: str) -> Store:
    """The store of a server that has been there before. Raises InvalidInput where there is none: none is made here."""
    from manent.storage import is_url, open_store

    if is_url(server):
        return open_store(server)
    path = Path(server)
    path = path / "server.db" if path.is_dir() else path
    if not path.is_file():
        raise InvalidInput(
            f"There is no server in {server}. Name the folder that `manent serve --folder` was given, once it has run."
        )
    return open_store(path)


def operator() -> str:
    """Who runs a command, for the audit log."""
    try:
        return f"operator:{getpass.getuser()}"
    except (OSError, KeyError):  # a container whose user has no name
        return "operator"
