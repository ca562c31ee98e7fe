"""`manent site join`: the server that an invitation names."""

from __future__ import annotations

import typer

from manent.app.commands.site.options import HERE, Folder, Invitation
from manent.app.commands.site.standing import stands


def join(token: Invitation, folder: Folder = HERE) -> None:
    """Join the server that an invitation names."""
    from manent.network.site.joining import join_patiently
    from manent.network.site.state import SiteState
    from manent.network.trust.join import JoinToken

    state = SiteState(folder)
    typer.echo(stands(state, join_patiently(state, JoinToken.decode(token))))
