"""The one door to a store that lasts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manent.storage.sql import SqlStore

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.]*://")


def is_url(path_or_url: str | os.PathLike[str]) -> bool:
    """Whether it names a database by a URL, rather than a SQLite file by its path."""
    return isinstance(path_or_url, str) and _URL.match(path_or_url) is not None


def open_store(path_or_url: str | os.PathLike[str], timeout: float = 60.0) -> SqlStore:
    """Open a store in a SQLite file, made where there is none, or in a database.

    Args:
        path_or_url: a file, "sqlite:///path", or "postgresql://user:password@host/database".
        timeout: seconds to wait for other writers before ProtocolAbort.

    Raises:
        InvalidInput: for what is not a store, is of a newer version, or cannot be opened.
        MissingExtra: for PostgreSQL without its driver.
    """
    # SQLAlchemy takes a quarter of a second to import, and most runs keep nothing.
    import sqlalchemy as sa

    from manent.storage.sql import SqlStore

    if isinstance(path_or_url, str) and is_url(path_or_url):
        return SqlStore(path_or_url, timeout)
    return SqlStore(sa.URL.create("sqlite", database=str(Path(path_or_url))), timeout)
