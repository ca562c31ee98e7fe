"""`manent site init`: a site's key and its first policy."""

from __future__ import annotations

from typing import Annotated

import typer

from manent.app.commands.site.options import HERE, Folder


def init(name: Annotated[str, typer.Argument(help="The site's name, as others will read it.")], folder: Folder = HERE) -> None:
    """Make a site's key, and a careful policy to edit.

    [dim]manent site init karolinska --folder /srv/manent[/]
    """
    from manent.network.site.state import POLICY, SiteState
    from manent.network.trust.identity import create_file
    from manent.network.trust.policy import Policy

    state = SiteState.create(folder, name)
    create_file(folder / POLICY, Policy.example().encode())
    typer.echo(
        f"Site {name} in {folder}. Edit {folder / POLICY}: as it stands, it allows nobody's studies.\n"
        f"Its public key, for the consortium's roster:\n{state.identity.public_hex}"
    )
