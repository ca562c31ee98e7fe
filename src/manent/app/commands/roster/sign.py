"""`manent roster sign`: the book, signed as the next roster."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from manent.app.commands.roster.options import HERE, Folder, KeyFile, counted, date


def sign(
    folder: Folder = HERE,
    key: KeyFile = None,
    days: Annotated[int, typer.Option(help="For how long sites accept it. The shorter, the sooner a removal is certain.")] = 90,
) -> None:
    """Sign the book as the next roster. Do so without changes too, to renew a roster before it expires."""
    from manent.network.trust.identity import Identity
    from manent.network.trust.roster import RosterBook

    book = RosterBook.load(folder)
    identity = Identity.load(key or RosterBook.key_path(folder))
    book, signed = book.sign(identity.signing_key, time.time(), days)
    typer.echo(
        f"Roster {signed.number} of {counted(len(book.entries))} signed, until {date(signed.expires)}: "
        f"{RosterBook.roster_path(folder)}\n"
        "Take it to the server, and there: manent roster publish SERVER roster.json. Sites take it from there, and refuse older "
        "ones."
    )
