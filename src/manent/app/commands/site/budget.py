"""`manent site budget`: what a site's data sets have left."""

from __future__ import annotations

import json

import typer

from manent.app.commands.options import AsJson
from manent.app.commands.privacy.unsettled import Released, Settle, tell, unsettled
from manent.app.commands.privacy.unsettled import settle as by_hand
from manent.app.commands.site.options import HERE, Folder
from manent.app.commands.site.standing import account, tell_budgets


def budget(folder: Folder = HERE, settle: Settle = None, released: Released = None, as_json: AsJson = False) -> None:
    """What each data set has spent of its budget, what is set aside, and what is left.

    A study that is over is settled by the site itself. --settle is for one of which the site hears no more.
    """
    from manent.network.site import telling
    from manent.network.site.state import SiteState

    state = SiteState(folder)
    books = account(state)
    by_hand(books.ledger, settle, released)
    found = telling.status(state, books)["budgets"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif found:
        tell_budgets(found)
        tell(unsettled(books.ledger))
    else:
        typer.echo("The policy gives no data set a budget.")
