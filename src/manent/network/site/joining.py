"""How a site joins a federation: with an invitation, a new identity, and rules that its operator may then tighten."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from manent.core.errors import InvalidInput, NotAuthorized
from manent.network.site.connection import Away, Connection, pause
from manent.network.site.state import IDENTITY, POLICY, Server, SiteState
from manent.network.trust.identity import create_file
from manent.network.trust.join import JoinToken
from manent.network.trust.policy import Policy

log = logging.getLogger("manent.site")

QUICK = """\
# Written by `manent join`: the rules of a quick start. `manent site init` writes a policy with every choice explained.

[researchers]
server = "{server}"

[code]
rule = "none"
isolation = "required"

[cohort]
minimum = 3
survivors = 3

[summation]
allowed = [{allowed}]
adversary = "active"
corrupt = 0.0
post_quantum = true

[privacy]
required = false

[data."{data}"]

[limits]
model_mb = 1000.0
memory_mb = 16000.0
seconds = 3600.0
rounds = 10000

[work]
hours = ["00:00-24:00"]
mains_power = false
"""


def open_site(folder: str | Path, name: str) -> SiteState:
    """The site in a folder, or a new one if there is none."""
    if (Path(folder) / IDENTITY).exists():
        return SiteState(folder)
    return SiteState.create(folder, name)


def join(state: SiteState, token: JoinToken) -> bool:
    """Join the server that an invitation names. Repeating it changes nothing.

    Returns:
        Whether the site is on the roster already.

    Raises:
        NotAuthorized: if the server does not take the invitation any more, or its rosters are signed by another key than it says.
        Away: if the server cannot be reached.
    """
    connection = Connection(token.url, token.pin, state.identity.signing_key)
    try:
        told = connection.table("GET", "/v1/server")
        own, signer = str(told.get("public")), str(told.get("signer"))
        if token.consortium is None and signer != own:
            raise NotAuthorized("This invitation is to a quick start, but the server's rosters are signed by a consortium's key.")
        if token.consortium is not None and signer != token.consortium:
            raise NotAuthorized(f"The server's rosters are signed by {signer}, not by the consortium's key {token.consortium}.")
        values = {"name": state.identity.name, "secret": token.secret}
        member = connection.table("POST", "/v1/join", values).get("member") is True
    finally:
        connection.close()
    state.put_server(Server(token.url, token.pin, own, signer, token.consortium is None))
    return member


def join_patiently(state: SiteState, token: JoinToken) -> bool:
    """As `join`, but tries again until the server can be reached. A site that has joined this server before answers at once,
    from its own store.
    """
    found = state.get("server")
    if found is not None and (found["url"], found["pin"]) == (token.url, token.pin):
        newest = state.signed_roster(state.newest_roster)
        return found["quick_start"] or (newest is not None and state.identity.public_hex in newest.names)
    failures = 0
    while True:
        try:
            return join(state, token)
        except Away as error:
            failures += 1
            log.warning("server away", extra={"reason": str(error), "failures": failures})
            time.sleep(pause(failures, state.identity.signing_key, time.time()))


def quick_policy(state: SiteState, data: str, plain: bool) -> Policy:
    """The site's policy. If it has none, write one that takes this server's studies on one data set.

    Args:
        data: the name of the data set.
        plain: also take studies in which the server sees this site's vectors.

    Raises InvalidInput for a name that cannot stand in a policy.
    """
    path = state.folder / POLICY
    if not path.exists():
        if '"' in data or "\\" in data or not data.isprintable():
            raise InvalidInput(f"A data set's name is 1 to 200 letters, digits or . _ : @ -; found {data!a:.80}.")
        allowed = '"SecAgg", "Plain"' if plain else '"SecAgg"'
        create_file(path, QUICK.format(server=state.server.public, allowed=allowed, data=data).encode())
    return Policy.load(path)
