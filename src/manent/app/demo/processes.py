"""Commands of this program as processes of their own, of which none is left behind."""

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
"""Seconds that a process has to leave by itself."""


class ProcessFailed(ManentError):
    """A process that ended, or did not do in time what it was to do."""


class Processes:
    """Processes by name, in one folder; what each writes goes into NAME.log there. Use it in a `with`.

    On Ctrl-C, on SIGTERM, and whenever the block is left, all are told to stop, and killed if they do not.
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
        """Start `manent ARGUMENTS` in the folder; `through` a command that becomes it, such as `ip netns exec NAME`."""
        command = [*through, *PROGRAM, *(str(argument) for argument in arguments)]
        # One thread each: what they compute is small, and they are many.
        own = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (self.folder / f"{name}.log").open("ab") as log:
            # A session of its own: Ctrl-C is for this process, which then stops the others in order.
            self.running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=own, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Tell all to stop; kill those that have not after a while."""
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
        """Raises ProcessFailed, with the end of its log, for a process that has ended with an error."""
        for name, process in self.running.items():
            if process.poll():
                raise ProcessFailed(f"{name} ended with code {process.returncode}. {self.tail(name)}")

    def tail(self, name: str, lines: int = 6) -> str:
        """The last lines that a process wrote, and where the rest is."""
        path = self.folder / f"{name}.log"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        last = [f"  {_readable(line)[:400]}" for line in text.splitlines() if line.strip()][-lines:]
        return "\n".join([f"The end of {path}:", *last])

    def wait(self, holds: Callable[[], bool], seconds: float, what: str, names: tuple[str, ...] | None = None) -> None:
        """Wait until something holds. Raises ProcessFailed, with the logs of these, where a process ends or time is over."""
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
    """A JSON log line for people."""
    try:
        values = json.loads(line)
        return f"{values['time'][11:19]} {values['level']}: {values['message']} {values.get('reason') or ''}".rstrip()
    except (ValueError, KeyError, TypeError):
        return line


def free_port() -> int:
    """A TCP port on which nobody listens now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)
