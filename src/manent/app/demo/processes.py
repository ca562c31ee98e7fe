"""Commands of this program as processes of their own. None is left running."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from manent.core.errors import ManentError

PROGRAM = (sys.executable, "-m", "manent")
PATIENCE = 15.0
"""Seconds that a process has to end after it was told to."""


class ProcessFailed(ManentError):
    """A process ended with an error, or did not do in time what was expected."""


class Processes:
    """Processes by name, which work in one folder and write to NAME.log there. Use it in a `with`.

    Whenever the block is left, also by Ctrl-C or SIGTERM, all are told to stop, and killed if they do not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._before: object = None

    def __enter__(self) -> Processes:
        with contextlib.suppress(ValueError):  # not in the main thread
            self._before = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def start(self, name: str, *arguments: str | Path, through: Sequence[str] = ()) -> None:
        """Start `manent ARGUMENTS` in the folder.

        Args:
            name: of the process, for its log and for the other methods.
            through: a command that runs the program in its own place, such as `ip netns exec NAME`.
        """
        command = [*through, *PROGRAM, *(str(argument) for argument in arguments)]
        # One thread each: their computations are small, and there are many processes.
        own = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (self.folder / f"{name}.log").open("ab") as log:
            # A session of its own, so that Ctrl-C reaches this process only, which then stops the others in order.
            self.running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=own, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """Kill a process at once (SIGKILL)."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Tell all to stop, and kill those that have not within `PATIENCE`."""
        left, self.running = self.running, {}
        for process in left.values():
            process.terminate()
        end = time.monotonic() + PATIENCE
        for process in left.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def check(self) -> None:
        """Raise ProcessFailed, with the end of its log, if a process has ended with an error."""
        for name, process in self.running.items():
            if process.poll():
                raise ProcessFailed(f"{name} ended with code {process.returncode}. {self.tail(name)}")

    def tail(self, name: str, lines: int = 6) -> str:
        """The last `lines` lines that a process wrote, and where the rest is."""
        path = self.folder / f"{name}.log"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        last = [f"  {_readable(line)[:400]}" for line in text.splitlines() if line.strip()][-lines:]
        return "\n".join([f"The end of {path}:", *last])

    def wait(self, holds: Callable[[], bool], seconds: float, what: str, names: tuple[str, ...] | None = None) -> None:
        """Wait until `holds()` is true.

        Args:
            seconds: wait no longer than this.
            what: what is waited for, for the message.
            names: of the processes whose logs the message quotes; None quotes all.

        Raises ProcessFailed where a process ends with an error, or the time is over.
        """
        end = time.monotonic() + seconds
        while not holds():
            self.check()
            if time.monotonic() > end:
                tails = "\n".join(self.tail(name) for name in names or tuple(self.running))
                raise ProcessFailed(f"{what} has not come within {seconds:g} s.\n{tails}")
            time.sleep(0.05)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _readable(line: str) -> str:
    """A line of a JSON log as people read it; any other line as it is."""
    try:
        values = json.loads(line)
        return f"{values['time'][11:19]} {values['level']}: {values['message']} {values.get('reason') or ''}".rstrip()
    except (ValueError, KeyError, TypeError):
        return line


def free_port() -> int:
    """A TCP port of this machine on which nobody listens at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file with one JSON object on each line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)
