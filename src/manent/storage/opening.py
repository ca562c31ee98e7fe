"""How a durable store is opened."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manent.storage.sql import SqlStore

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.]*://")


def is_url(path_or_url: str | os.PathLike[str]) -> bool:
    """Whether this is the URL of a database, rather than the path of a SQLite file."""
    return isinstance(path_or_url, str) and _URL.match(path_or_url) is not None


def open_store(path_or_url: str | os.PathLike[str], timeout: float = 60.0) -> SqlStore:
    """Open a store in a SQLite file, which is made if there is none, or in a database.

    Args:
        path_or_url: a file, "sqlite:///path", or "postgresql://user:password@host/database".
        timeout: seconds to wait for other writers before ProtocolAbort.

    Raises:
        InvalidInput: for a database that is not a store, is of a newer version, or cannot be opened.
        MissingExtra: for PostgreSQL without its driver.
    """
    # Imported here as SQLAlchemy takes a quarter of a second to import, and most runs store nothing.
    import sqlalchemy as sa

    from manent.storage.sql import SqlStore

    if isinstance(path_or_url, str) and is_url(path_or_url):
        return SqlStore(path_or_url, timeout)
    return SqlStore(sa.URL.create("sqlite", database=str(Path(path_or_url))), timeout)
