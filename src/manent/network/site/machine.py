"""What an agent needs of the machine it runs on. A simulation replaces it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from manent.core.randomness import PrivateRandom
from manent.crypto import SystemRandom


def start(work: Callable[[], None], name: str) -> None:
    """Run some work in a thread of its own."""
    threading.Thread(target=work, name=name, daemon=True).start()


@dataclass(frozen=True)
class Machine:
    """Time, pauses, threads, randomness, and the way to the server.

    Attributes:
        clock: seconds since the epoch.
        pause: waits until an event is set, for so many seconds at most.
        start: runs some work in parallel, under a name.
        random: makes a new private source.
        transport: how requests travel; None for HTTPS.
    """

    clock: Callable[[], float] = time.time
    pause: Callable[[threading.Event, float], object] = threading.Event.wait
    start: Callable[[Callable[[], None], str], None] = start
    random: Callable[[], PrivateRandom] = SystemRandom
    transport: httpx.BaseTransport | None = None
