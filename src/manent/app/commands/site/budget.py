"""`manent site budget`: what a site's data sets have left."""

from __future__ import annotations

import json

import typer

from manent.app.commands.options import AsJson
from manent.app.commands.site.options import HERE, Folder
from manent.app.commands.site.standing import account, tell_budgets


def budget(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """What each data set has spent of its budget, what is set aside, and what is left."""
    from manent.network.site import telling
    from manent.network.site.state import SiteState

    state = SiteState(folder)
    found = telling.status(state, account(state))["budgets"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif found:
        tell_budgets(found)
    else:
        typer.echo("The policy gives no data set a budget.")
