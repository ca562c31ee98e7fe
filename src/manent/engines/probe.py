"""What only a simulation can know of a run, round by round. It is not private: no deployment has it."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import Any

import numpy as np

from manent.core.metrics import measure
from manent.core.protocols import Model
from manent.core.vectors import Vector
from manent.engines.pools import Pool
from manent.engines.record import Record
from manent.engines.setting import Setting
from manent.rounds.server import finite
from manent.rounds.state import State

NAMED = 50
"""Federations of at most so many clients get their metrics by client."""


class Probe:
    """Gathers what happens in a round, and looks at the model at its end.

    Attributes:
        losses: the sum of the clients' training losses since the last look, and how many there were.
    """

    def __init__(self, setting: Setting, pool: Pool, record: Record, losses: tuple[float, int] = (0.0, 0)) -> None:
        self._setting, self._pool, self._record = setting, pool, record
        self._counts = 0, 0
        self.losses = losses

    def gather(self, asked: int, answers: int, losses: Sequence[float]) -> None:
        """Take in a sum: how many clients were asked and answered, and the training losses of those who answered."""
        self._counts = self._counts[0] + asked, self._counts[1] + answers
        # fsum rounds once, so the order in which workers answer does not show.
        self.losses = self.losses[0] + fsum(losses), self.losses[1] + len(losses)

    def look(self, round: int, state: State) -> dict[str, float]:
        """Add the row of a round, where one is due. Returns the few numbers that a progress bar shows."""
        setting, last = self._setting, round == self._setting.plan.study.rounds
        row: dict[str, Any] = {"round": round}
        if setting.plan.privacy is not None:
            row["cohort"], row["answers"] = self._counts
        self._counts = 0, 0
        if self.losses[1]:
            row["train_loss"] = self.losses[0] / self.losses[1]
            self.losses = 0.0, 0
        if setting.model is None or (round % setting.evaluate_every and not last):
            return {name: row[name] for name in ("train_loss",) if name in row}
        row |= self._metrics(setting.model, np.asarray(state.arrays["model"], np.float32))
        self._record.add_probe(row)
        shown = row.get("test") or {name: spread["mean"] for name, spread in row.get("clients", {}).items()}
        return {name: shown[name] for name in setting.metric_names[:2] if name in shown}

    def _metrics(self, model: Model, vector: Vector) -> dict[str, Any]:
        """Metrics on the central test set and on the clients' test parts, as far as there are any."""
        setting, names = self._setting, self._setting.metric_names
        row: dict[str, Any] = {}
        if setting.data.test is not None:
            row["test"] = finite(measure(names, model.evaluate(vector, setting.data.test), model.classes))
        tested = [i for i, client in enumerate(setting.data.clients) if client.test is not None and len(client.test)]
        if tested:
            found = self._pool.measure(vector, tested)
            spreads = {name: _spread([metrics[name] for metrics in found]) for name in names}
            row["clients"] = {name: spread for name, spread in spreads.items() if spread}
            if len(tested) <= NAMED:
                row["client"] = {setting.data.clients[i].name: finite(own) for i, own in zip(tested, found, strict=True)}
        return row


def _spread(values: list[float]) -> dict[str, float]:
    """Mean, standard deviation, minimum and maximum of a metric over the clients for which it has a value."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return {}
    return {"mean": float(known.mean()), "sd": float(known.std()), "min": float(known.min()), "max": float(known.max())}
