"""`manent join`: a site, from an invitation and its data."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated

import typer

from manent.app.commands.site.options import Folder, Invitation
from manent.app.commands.site.standing import stands


def join(
    token: Invitation,
    data: Annotated[str, typer.Option(metavar="FILE.py:NAME", help="A function of yours that returns this site's data.")],
    folder: Folder = Path("site"),
    name: Annotated[str | None, typer.Option(help="The site's name. (default: this machine's name)")] = None,
    data_set: Annotated[str, typer.Option(help="The name under which studies ask for the data.")] = "data",
    plain: Annotated[bool, typer.Option("--plain", help="Also let the server see this site's vectors.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Leave when every study that was begun is over.")] = False,
) -> None:
    """Join a federation and work for it: outbound HTTPS only. Kill it at any moment; started again, it goes on.

    [dim]manent join manent-join-1.AbC... --data load.py:load --name karolinska[/]
    """
    from manent.app.logs import log_json
    from manent.app.study.loader import loader
    from manent.network.site.agent import Agent
    from manent.network.site.joining import join_patiently, open_site, quick_policy
    from manent.network.site.state import POLICY
    from manent.network.trust.join import JoinToken
    from manent.network.trust.policy import Policy

    log_json()
    rules = folder / POLICY
    load = loader(data, Policy.load(rules).data if rules.exists() else ())
    state = open_site(folder, name or re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()))
    on = join_patiently(state, JoinToken.decode(token))
    policy = quick_policy(state, data_set, plain)
    typer.echo(f"Site {state.identity.name} ({state.identity.public_hex[:16]}), rules in {rules}.")
    typer.echo(stands(state, on))
    agent = Agent(state, policy, load)
    agent.run(agent.done if once else lambda: False)
