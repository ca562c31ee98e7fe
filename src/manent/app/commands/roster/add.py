"""`manent roster add`: a site into the book."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from manent.app.commands.roster.options import HERE, Folder, counted


def add(
    name: Annotated[str, typer.Argument(help="The site's name, as people will read it.")],
    public: Annotated[str, typer.Argument(metavar="KEY", help="The site's public key, 64 hexadecimal digits.")],
    folder: Folder = HERE,
) -> None:
    """Add a site to the book. It takes effect when the book is next signed.

    Compare the key with what the site's own people read out to you: nothing else says that it is theirs.
    """
    from manent.network.trust.roster import RosterBook

    book = RosterBook.load(folder).add(name, public.strip().lower(), time.time())
    typer.echo(f"{name} added; {counted(len(book.entries))}, not signed yet: manent roster sign --folder {folder}")
