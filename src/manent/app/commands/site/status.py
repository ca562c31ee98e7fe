"""`manent site status`: how a site stands."""

from __future__ import annotations

import json
import time
from typing import Any

import typer

from manent.app.commands.options import AsJson
from manent.app.commands.site.options import HERE, Folder
from manent.app.commands.site.standing import account, tell_budgets
from manent.app.terminal import escaped


def status(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """How the site stands: its server, studies with their decisions, sums under way, budgets."""
    from manent.network.site import telling
    from manent.network.site.state import SiteState

    state = SiteState(folder)
    found = telling.status(state, account(state))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    typer.echo(f"Site {found['name']} ({found['public']})\nServer: {found['server'] or 'none yet; see manent site join'}")
    if found["server"]:
        typer.echo(f"Roster: {_roster(found)}")
    for study in found["studies"]:
        over = ", over" if study["over"] else ""
        typer.echo(
            f"  {study['hash'][:12]}  {escaped(study['name'] or '-'):20} {study['decision']}, round {study['round']}{over}"
        )
        if study["reason"]:
            typer.echo(f"      {study['reason']}")
    for task in found["sums"]:
        typer.echo(f"  under way: {task['study'][:12]} round {task['round']}, {task['sum']}")
    tell_budgets(found["budgets"])


def _roster(found: dict[str, Any]) -> str:
    """The roster that the site knows, who signed it, until when, and whether the site is on it."""
    by = "the server itself (a quick start)" if found["quick_start"] else f"the consortium {found['signer'][:16]}..."
    if not found["roster"]:
        return f"none seen yet; it is to be signed by {by}"
    until = time.strftime("%Y-%m-%d", time.gmtime(found["roster_expires"]))
    return f"{found['roster']}, signed by {by}, until {until}; this site is {'' if found['member'] else 'NOT '}on it"
