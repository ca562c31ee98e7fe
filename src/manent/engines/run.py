"""What a run leaves behind: its history, its probe and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.protocols import AlgorithmTraits, traits
from manent.core.study import Study
from manent.core.vectors import Array, Arrays
from manent.engines.plots import Row, plot_runs
from manent.privacy.statement import Statement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from manent.models.files import FittedModel, ScoringModel


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        history: one row a sum: "round", "sum", "cohort", "answers", "bytes_up", "bytes_down", and the accounted numbers
            of the algorithm. This is what a deployment shows. No times are in it, as they tell how many took part.
        probe: one row an evaluated round, **not private**: only a simulation can know it. It holds "round", "seconds" and
            "train_loss"; "test", the metrics on the central test set; "clients", for each metric the mean, sd, min and max over
            the clients' own test parts; and "client", the metrics of each client, for at most 50 clients.
        state: the algorithm's last state.
        seconds: wall time, all sessions of a resumed run together.
        folder: where the run is kept, or None.
        start_up: how many of the seconds passed before the first round.
    """

    study: Study
    statement: Statement
    state: Arrays
    history: Sequence[Row]
    probe: Sequence[Row]
    seconds: float
    folder: Path | None = None
    start_up: float = field(default=0.0, compare=False)

    @property
    def result(self) -> Arrays:
        """What the study was for: {"model": vector}, or the arrays that answer a query."""
        return self.study.algorithm.result(self.state)

    @property
    def model(self) -> FittedModel:
        """The trained model. Raises InvalidInput for a study that trains none."""
        from manent.models.files import FittedModel

        model = traits(self.study.algorithm, AlgorithmTraits).model
        if model is None:
            raise InvalidInput(f"{type(self.study.algorithm).__name__} trains no model; see run.result.")
        return FittedModel(cast("ScoringModel", model), np.asarray(self.state["model"], np.float32))

    def series(self, name: str, source: str = "test") -> tuple[Array, Array]:
        """Rounds [n] and values [n] of one metric.

        Args:
            source: "history"; or of the probe "test" (central test set), "clients" (mean over clients) or "train" (for "loss").

        Raises InvalidInput where the run has no such metric there.
        """
        if source == "history":
            pairs = [(row["round"], row[name]) for row in self.history if name in row]
        elif source == "train":
            pairs = [(row["round"], row[f"train_{name}"]) for row in self.probe if f"train_{name}" in row]
        else:
            found = [(row["round"], row.get(source, {}).get(name)) for row in self.probe]
            pairs = [(r, v["mean"] if isinstance(v, Mapping) else v) for r, v in found if v is not None]
        if not pairs:
            raise InvalidInput(f"The run has no {name!r} in {source!r}; try another metric or source.")
        rounds, values = zip(*pairs, strict=True)
        return np.array(rounds), np.array(values, np.float64)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the metrics by round, by bytes and by seconds, into the file `path` where one is given; see `plot_runs`."""
        return plot_runs({self.study.name or type(self.study.algorithm).__name__: (self.history, self.probe)}, path)
