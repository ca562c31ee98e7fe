"""The process that is timed: it reads from stdin how many rounds it may run, and writes to stdout how long each took.

Standard library only, so that any environment can import it. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


class Pace:
    """Runs one round at once, then as many as it is asked for, and says after each block how long its rounds took."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._left = 1
        self._seconds: list[float] = []
        self._last = time.perf_counter()

    def round_over(self) -> None:
        """A round is over: go on, or wait for the next request."""
        self._seconds.append(time.perf_counter() - self._last)
        self._left -= 1
        if self._left == 0:
            self.say(seconds=self._seconds)
            self._seconds = []
            line = sys.stdin.readline()
            if not line:
                os._exit(1)  # nobody is waiting any more
            self._left = int(line)
        self._last = time.perf_counter()

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        """The same, as the watcher of a simulation."""
        self.round_over()

    def say(self, **values: Any) -> None:
        """Print one line for the process that started this."""
        self._out.write(json.dumps(values) + "\n")
        self._out.flush()
