"""`manent site leave`: out of a study."""

from __future__ import annotations

import typer

from manent.app.commands.site.options import HERE, Chosen, Folder


def leave(study: Chosen, folder: Folder = HERE) -> None:
    """Take part in no further sum of a study. What was released stays released; the other sites go on if they are enough."""
    from manent.network.site import telling
    from manent.network.site.state import SiteState

    state = SiteState(folder)
    known = state.leave(telling.find(state, study).hash)
    typer.echo(f"Left study {known.hash[:12]} after round {known.round}; the server is told when the site runs.")
