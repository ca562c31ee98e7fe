"""How commands ask a server: its address, its certificate, the person's token; and how they print a study and its sum."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manent.app.terminal import printable
from manent.core.errors import InvalidInput, ProtocolAbort

if TYPE_CHECKING:
    from manent.network.researcher import Researcher

TOKEN = "MANENT_TOKEN"  # noqa: S105 - the name of a variable
Pin = Annotated[
    str | None,
    typer.Option(envvar="MANENT_PIN", metavar="HASH", help="Hash of its certificate. (default: an authority vouches for it)"),
]
Server = Annotated[str, typer.Option(envvar="MANENT_SERVER", metavar="URL", help="Such as https://fl.example:8443.")]
Which = Annotated[str, typer.Argument(metavar="STUDY", help="The first digits of its hash.")]


@contextmanager
def asking(server: str, pin: str | None) -> Iterator[Researcher]:
    """A connection to a server with the token of the environment, closed at the end. Raises InvalidInput without a token."""
    from manent.network.researcher import Researcher

    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise InvalidInput(f"Set {TOKEN} to the token that the server's operator gave you (manent people add); it is not set.")
    found = Researcher(server.rstrip("/"), token, pin)
    try:
        yield found
    finally:
        found.close()


def study_line(one: dict[str, Any]) -> str:
    """A study in a line: hash, phase, name, round, and why it failed. The texts are the server's, made safe to print."""
    reason = f": {printable(one['reason'])}" if one.get("reason") else ""
    at = f"round {one.get('round')}" if one.get("phase") == "running" else ""
    return f"{str(one['hash'])[:16]}  {printable(one.get('phase')):10}  {printable(one.get('name')):20}  {at}{reason}".rstrip()


def sum_line(sum: dict[str, Any]) -> str:
    """The sum under way: how many are asked, and until when. Raises ProtocolAbort where the server's answer is malformed."""
    try:
        closes = datetime.fromtimestamp(int(sum["closes"]), UTC).strftime("%d %B, %H:%M:%S UTC")
        again = f"; attempt {int(sum['attempt'])}, as too few answered before" if int(sum["attempt"]) > 1 else ""
        asked = f"{int(sum['count'])} sites are asked, phase {printable(sum['phase'])!r} until {closes}{again}"
        return f"  {printable(sum['name'])!r} of round {int(sum['round'])}: {asked}"
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        raise ProtocolAbort("What the server says of the sum under way does not fit.") from None
