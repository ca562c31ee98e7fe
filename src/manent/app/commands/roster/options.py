"""Options of `manent roster`, and how it prints dates and counts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from manent.core.store import Store
    from manent.network.server.rosters import Rosters

HERE = Path("consortium")
Folder = Annotated[Path, typer.Option(help="Where book, roster and (unless elsewhere) the key are kept.")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="The consortium's key file. (default: consortium.key in the folder)")]


def counted(sites: int) -> str:
    """So many sites, in words."""
    return f"{sites:,} site{'s' * (sites != 1)}"


def date(seconds: int) -> str:
    """A time, in seconds after 1970, to the minute; a time that no calendar holds, as its seconds."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"


def rosters_of(store: Store) -> Rosters:
    """A server's rosters, for its operator, who may see them and hand them in."""
    from manent.network.server.rosters import Rosters, settle

    return Rosters(store, None, settle(store, None))
