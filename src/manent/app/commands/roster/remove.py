"""`manent roster remove`: a site out of the book."""

from __future__ import annotations

from typing import Annotated

import typer

from manent.app.commands.roster.options import HERE, Folder, counted


def remove(name: Annotated[str, typer.Argument(help="The site's name.")], folder: Folder = HERE) -> None:
    """Remove a site from the book. It takes effect when the book is signed: sign at once, and give the roster to the server."""
    from manent.network.trust.roster import RosterBook

    book = RosterBook.load(folder).remove(name)
    typer.echo(f"{name} removed; {counted(len(book.entries))}, not signed yet: manent roster sign --folder {folder}")
