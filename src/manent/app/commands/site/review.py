"""`manent site review`: what a study would see and run, and its approval."""

from __future__ import annotations

import getpass
import time
from typing import Annotated

import typer

from manent.app.commands.site.options import HERE, Chosen, Folder


def review(
    study: Chosen,
    folder: Folder = HERE,
    approve: Annotated[bool, typer.Option("--approve", help="Approve exactly this bundle, after reading it.")] = False,
    note: Annotated[str, typer.Option(help="Kept beside the approval.")] = "",
) -> None:
    """Show what a study would see and run, and what has changed since the version approved last; with --approve, approve it."""
    from manent.network.site import telling
    from manent.network.site.state import APPROVALS, SiteState
    from manent.network.trust.policy import approve as write

    state = SiteState(folder)
    known = telling.find(state, study)
    typer.echo(telling.review(state, known))
    if approve:
        day = time.strftime("%Y-%m-%d %H:%M")
        write(folder / APPROVALS, known.bundle, " ".join((getpass.getuser(), day, note)).strip())
        typer.echo(f"\nApproved: {known.bundle}")
