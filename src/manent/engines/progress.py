"""Watchers of a run, and the progress bar: shown on a terminal, and not in a pipe."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn


class Watcher(Protocol):
    """Told of each round of a run as it ends."""

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        """A round is over.

        Args:
            clients: how many answered in it, as the history says: in a private study, how many are expected.
            metrics: a few numbers by name, from the probe.
        """
        ...


@dataclass(frozen=True)
class Several:
    """Watchers that are told one after another."""

    watchers: tuple[Watcher, ...]

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        """Tell each watcher."""
        for watcher in self.watchers:
            watcher.advance(round, clients, metrics)


class Bar:
    """A bar with the round, metrics, clients a second and the time left.

    Args:
        done: rounds of a resumed run that are over.
    """

    def __init__(self, rounds: int, done: int = 0, title: str = "training") -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            console=Console(file=sys.stderr),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(title, total=rounds, completed=done, metrics="", speed="")
        self._clients, self._began = 0, time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        """Show the round that is over."""
        self._clients += clients
        speed = self._clients / max(time.monotonic() - self._began, 1e-9)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._bar.update(self._task, completed=round, metrics=shown, speed=f"{speed:,.0f} clients/s")
