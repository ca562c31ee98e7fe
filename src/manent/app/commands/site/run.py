"""`manent site run`: a site at work."""

from __future__ import annotations

from manent.app.commands.site.options import HERE, Data, Folder


def run(data: Data, folder: Folder = HERE) -> None:
    """Work for the federation, until interrupted.

    [dim]manent site run --data load.py:load[/]
    """
    from manent.app.logs import log_json
    from manent.app.study.loader import loader
    from manent.network.site.agent import Agent
    from manent.network.site.state import POLICY, SiteState
    from manent.network.trust.policy import Policy

    log_json()
    policy = Policy.load(folder / POLICY)
    Agent(SiteState(folder), policy, loader(data, policy.data)).run()
