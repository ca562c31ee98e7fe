"""A process that runs rounds on request (see peers/pace.py), and how much memory it and its descendants take."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SAMPLE_SECONDS = 0.25


def tree(pid: int) -> list[int]:
    """A process and all its descendants (Linux)."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            waiting += [int(child) for child in _text(task).split()]
    return found


def proportional_set(pid: int) -> int:
    """Bytes of memory of a process tree: each page divided by the number of processes that share it."""
    lines = [line for each in tree(pid) for line in _text(Path(f"/proc/{each}/smaps_rollup")).splitlines()]
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def open_files(pid: int) -> int:
    """How many file handles a process tree holds."""
    return sum(len(os.listdir(f"/proc/{each}/fd")) for each in tree(pid))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended meanwhile
        return ""


class Child:
    """A process under way.

    Attributes:
        began: when it was started (time.monotonic).
        peak: bytes, the largest proportional set seen while `watched`.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.began, self.peak = time.monotonic(), 0
        own = {**os.environ, **(environment or {})}
        log = None if os.environ.get("BENCHMARK_LOG") else subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=own)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def hear(self) -> dict[str, Any]:
        """The next line that it says. Raises EOFError if it has ended instead."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"the process ended with status {self._process.wait()}; BENCHMARK_LOG=1 shows what it printed")
        values: dict[str, Any] = json.loads(line)
        return values

    def ask(self, rounds: int) -> dict[str, Any]:
        """Ask it for so many rounds, and return what it says."""
        assert self._process.stdin
        self._process.stdin.write(f"{rounds}\n")
        self._process.stdin.flush()
        return self.hear()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch its memory inside the block."""
        over = threading.Event()

        def look() -> None:
            while True:
                self.peak = max(self.peak, proportional_set(self._process.pid))
                if over.wait(SAMPLE_SECONDS):
                    return

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
