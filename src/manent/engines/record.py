"""What a run writes down: its rows, its clock, and its folder where it has one."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from manent.engines.folder import Checkpoint, RunFolder, environment
from manent.engines.memory import ClientMemory
from manent.engines.setting import Setting
from manent.rounds.reducer import Progress
from manent.rounds.state import State

HISTORY, PROBE = "history.jsonl", "probe.jsonl"


class Record:
    """The rows of a run so far.

    Attributes:
        history: what the server of a deployment would know, one row a sum.
        probe: what only a simulation can know, one row an evaluated round.

    Args:
        folder: where to keep the run, or None.
        saved: the checkpoint of the run that is resumed, or None.
        began: `time.monotonic()` at the start of this session.
        durable: whether a checkpoint must survive a loss of power, as it holds a release that is paid for.
    """

    def __init__(self, folder: RunFolder | None, saved: Checkpoint | None, began: float, durable: bool = False) -> None:
        self.folder, self._began, self._durable = folder, began, durable
        self._before = saved.elapsed if saved else 0.0
        self._untold: list[tuple[str, dict[str, Any]]] = list(saved.rows) if saved else []
        self.history = self._kept(HISTORY, saved)
        self.probe = self._kept(PROBE, saved)

    def _kept(self, log: str, saved: Checkpoint | None) -> list[dict[str, Any]]:
        if self.folder is None or saved is None:
            return []
        return [*self.folder.rows(log), *(row for name, row in saved.rows if name == log)]

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, all sessions together."""
        return self._before + time.monotonic() - self._began

    def add_history(self, row: dict[str, Any]) -> None:
        """Add a row to the history; it is told after the next checkpoint. How long a round took is not in it, as that tells how
        many clients worked in it."""
        self.history.append(row)
        self._untold.append((HISTORY, self.history[-1]))

    def add_probe(self, row: dict[str, Any]) -> None:
        """Add a row to the probe, with the seconds so far. It is told after the next checkpoint."""
        self.probe.append({**row, "seconds": float(f"{self.elapsed:.4f}")})
        self._untold.append((PROBE, self.probe[-1]))

    def save(
        self,
        state: State,
        progress: Progress,
        memory: ClientMemory | None,
        losses: tuple[float, int],
        released: int,
        release: tuple[int, int, str] | None,
    ) -> None:
        """Make a checkpoint, where the run has a folder, before anybody is told of its last sum."""
        if self.folder:
            if memory is not None and self._durable:
                memory.flush()
            current = np.zeros(0, np.uint8) if memory is None else memory.current
            at = (state.named(), progress, current, self.elapsed, losses, self.folder.lengths(), released)
            self.folder.save(Checkpoint(*at, release, tuple(self._untold)), self._durable)

    def tell(self) -> None:
        """Write to the logs what the last checkpoint holds and they do not."""
        for log, row in self._untold:
            if self.folder:
                self.folder.append(log, row)
        self._untold.clear()


def write_start(folder: RunFolder, setting: Setting) -> None:
    """Write what a run starts with; study.json last, as it marks a run that can be resumed."""
    facts = setting.to_plain()
    folder.write("environment.json", environment(facts["data"]))
    folder.write("statement.json", setting.plan.statement.to_plain())
    folder.write_text("statement.txt", f"{setting.plan.statement}\n")
    folder.write("study.json", facts)
