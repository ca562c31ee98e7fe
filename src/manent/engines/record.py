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


class Record:
    """The rows of a run so far.

    Attributes:
        history: what the server of a deployment would know, one row a sum.
        probe: what only a simulation can know, one row an evaluated round.

    Args:
        folder: where to keep the run, or None.
        saved: the checkpoint of the run that is resumed, or None.
        began: `time.monotonic()` at the start of this session.
    """

    def __init__(self, folder: RunFolder | None, saved: Checkpoint | None, began: float) -> None:
        self.folder, self._began = folder, began
        self._before = saved.elapsed if saved else 0.0
        resumed = folder if saved else None
        self.history: list[dict[str, Any]] = resumed.rows("history.jsonl") if resumed else []
        self.probe: list[dict[str, Any]] = resumed.rows("probe.jsonl") if resumed else []

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, all sessions together."""
        return self._before + time.monotonic() - self._began

    def add_history(self, row: dict[str, Any]) -> None:
        """Add a row to the history. No time is in it: how long a round took tells how many clients worked in it."""
        self.history.append(row)
        if self.folder:
            self.folder.append("history.jsonl", self.history[-1])

    def add_probe(self, row: dict[str, Any]) -> None:
        """Add a row to the probe, with the seconds so far."""
        self.probe.append({**row, "seconds": float(f"{self.elapsed:.4f}")})
        if self.folder:
            self.folder.append("probe.jsonl", self.probe[-1])

    def save(
        self, state: State, progress: Progress, memory: ClientMemory | None, losses: tuple[float, int], released: int
    ) -> None:
        """Make a checkpoint, where the run has a folder."""
        if self.folder:
            current = np.zeros(0, np.uint8) if memory is None else memory.current
            at = (state.named(), progress, current, self.elapsed, losses, self.folder.lengths(), released)
            self.folder.save(Checkpoint(*at))


def write_start(folder: RunFolder, setting: Setting) -> None:
    """Write what a run starts with; study.json last, as it marks a run that can be resumed."""
    facts = setting.to_plain()
    folder.write("environment.json", environment(facts["data"]))
    folder.write("statement.json", setting.plan.statement.to_plain())
    folder.write_text("statement.txt", f"{setting.plan.statement}\n")
    folder.write("study.json", facts)
