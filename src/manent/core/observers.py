"""Who looks at a study, and what a summation shows each of them. What they then learn is worked out in `privacy/observers.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from manent.core import validate
from manent.core.errors import InvalidInput

ObserverName = Literal["server", "clients", "public", "colluders", "server and colluders"]
"""The server; any one other client that takes part; who sees what is published; and, where a share of the clients is declared to
collude, those together, without the server and with it."""
OBSERVERS: tuple[ObserverName, ...] = get_args(ObserverName)
View = Literal["every client's vector", "the sum alone", "nothing but what is released"]


@dataclass(frozen=True)
class Sight:
    """What a summation shows an observer.

    Attributes:
        view: of the vectors that the clients send.
        cohort: whether it tells who takes part in each sum.
    """

    view: View
    cohort: bool


def with_server(observer: ObserverName) -> bool:
    """Whether the server is the observer, or one of those who look together."""
    return observer in ("server", "server and colluders")


def check_observers(owner: str, name: str, value: Any) -> tuple[ObserverName, ...]:
    """The observers as a tuple. Raises InvalidInput, naming the owner, for anything but names of observers, each once."""
    validate.names(owner, name, value, "('server', 'public')")
    for one in value:
        validate.one_of(owner, name, one, OBSERVERS)
    if not value or len(set(value)) < len(value):
        raise InvalidInput(
            f"{owner} expects {name} to name at least one observer, and each once; found {validate.shown(value)}. "
            f"Write {name}=('server', 'public'), or leave it out."
        )
    return tuple(value)
