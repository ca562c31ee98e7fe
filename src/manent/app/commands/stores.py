"""The store of a server, for commands that its operator runs beside it."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from manent.core.errors import InvalidInput

if TYPE_CHECKING:
    from manent.core.store import Store


def server_store(server: str) -> Store:
    """Open the store of a server that has run before.

    Args:
        server: its folder, its SQLite file, or the URL of its database.

    Raises InvalidInput where there is none; no new store is made.
    """
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
    """Who runs this command, as the audit log names them."""
    try:
        return f"operator:{getpass.getuser()}"
    except (OSError, KeyError):  # a container whose user has no name
        return "operator"
