"""`manent roster init`: a consortium's key and book."""

from __future__ import annotations

from typing import Annotated

import typer

from manent.app.commands.roster.options import HERE, Folder, KeyFile


def init(
    name: Annotated[str, typer.Argument(help="The consortium's name.")],
    folder: Folder = HERE,
    key: KeyFile = None,
) -> None:
    """Begin a consortium: make its key, and an empty list of sites.

    [dim]manent roster init heart-consortium --key /media/usb/consortium.key[/]
    """
    from manent.network.trust.roster import RosterBook

    book = RosterBook.create(folder, name, key)
    typer.echo(
        f"Consortium {name}, key in {key or RosterBook.key_path(folder)}. Keep it, and a copy, where no network reaches: "
        "whoever has it decides who takes part.\n"
        f"Its public half, for every site's operator over a channel they trust, and for the server:\n{book.signer}\n"
        f"  manent serve STUDY.py --consortium {book.signer}"
    )
