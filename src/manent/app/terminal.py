"""What commands print, and how texts that strangers chose are made safe to print."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

from manent.core.errors import ClientFailed, ManentError

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
LONGEST = 2000
"""Characters of a stranger's text that are printed."""


def say(text: str) -> None:
    """Print rich markup to standard error."""
    Console(file=sys.stderr, soft_wrap=True, highlight=False).print(text)


def show(content: Any) -> None:
    """Print text, a table or another rich object to standard output."""
    Console(file=sys.stdout, highlight=False).print(content)


def message(error: ManentError) -> str:
    """An error for people. Of a client's failure it gives the reason's first line: the failure's folder keeps the rest."""
    if isinstance(error, ClientFailed):
        kept = f" Its inputs, and where it was raised, are kept in {error.folder}." if error.folder else ""
        reason = error.reason.splitlines()[0] if error.reason else "no reason given"
        return f"Client {error.client!r} failed in round {error.round}, stage {error.stage!r}: {reason}{kept}"
    return str(error)


def escaped(text: str) -> str:
    """A stranger's text with JSON's escapes: nothing in it can control a terminal, and nothing is lost."""
    return json.dumps(text)[1:-1]


def printable(text: object) -> str:
    """A stranger's text, at most `LONGEST` characters, with a space in place of each that could control a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:LONGEST])
