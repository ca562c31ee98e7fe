"""`manent join`: a site, from an invitation and its data."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Collection
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manent.app.studyfile import load_names
from manent.core.errors import InvalidInput
from manent.core.examples import Client
from manent.network.sandbox.handover import as_client

if TYPE_CHECKING:
    from manent.network.site.state import SiteState


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(join)


def join(
    token: Annotated[str, typer.Argument(metavar="INVITATION", help="The line that the server's operator gave.")],
    data: Annotated[str, typer.Option(metavar="FILE.py:NAME", help="A function of yours that returns this site's data.")],
    folder: Annotated[Path, typer.Option(help="Where the site keeps its key, rules and state.")] = Path("site"),
    name: Annotated[str | None, typer.Option(help="Of the site. (default: this machine's name)")] = None,
    data_set: Annotated[str, typer.Option(help="The name under which studies ask for the data.")] = "data",
    plain: Annotated[bool, typer.Option("--plain", help="Also let the server see this site's vectors.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Leave when every study that was begun is over.")] = False,
) -> None:
    """Join a federation and work for it: outbound HTTPS only. Kill it at any moment; started again, it goes on.

    [dim]manent join manent-join-1.AbC... --data load.py:load --name karolinska[/]
    """
    from manent.app.logs import log_json
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


def stands(state: SiteState, on: bool) -> str:
    """Whether a site is on the roster, and what the consortium needs where it is not."""
    name, key = state.identity.name, state.identity.public_hex
    if not on:
        return f"Asked; the consortium has to sign a roster with this site on it:\n  manent roster add {name} {key}"
    by = "the server itself: a quick start, in which it says who takes part" if state.server.quick_start else "the consortium"
    return f"On the roster, which is signed by {by}."


def loader(text: str, data_sets: Collection[str] = ()) -> Callable[[str], Client]:
    """The function that "FILE.py:NAME" says, as what returns a client by the name of a data set.

    A function without a parameter has one data set; one with a parameter is given the name.

    Args:
        data_sets: names of the data sets that studies may ask for.

    Raises InvalidInput where there is none, and for one without a parameter where there are several data sets.
    """
    path, _, name = text.rpartition(":")
    if not path or not name.isidentifier():
        raise InvalidInput(f"--data expects FILE.py:NAME, such as load.py:load; found {text!r}.")
    (function,) = load_names(path, (name,))
    if not callable(function):
        raise InvalidInput(f"{name} in {path} is no function; it should return this site's data.")
    named = bool(signature(function).parameters)
    if not named and len(data_sets) > 1:
        raise InvalidInput(
            f"The policy has several data sets ({', '.join(data_sets)}), and {name} in {path} takes no name of one. Write "
            f"`def {name}(data): ...`, which returns the data set of that name."
        )

    def load(data: str) -> Client:
        return as_client(function(data) if named else function())

    return load
