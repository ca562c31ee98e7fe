"""Training every way of learning, and scoring its models on the centres' test patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from manent.algorithms.gradient import GradientAlgorithm
from manent.app.demo.findings import Findings, Numbers
from manent.app.demo.ways import CENTRAL, FEDERATED, MAIN, MODEL, ONE_SCALE, POOLED, ROUNDS
from manent.app.study.launch import Silent
from manent.core.errors import InvalidInput
from manent.core.examples import Client
from manent.core.study import Study
from manent.data import Federation, heart_disease
from manent.engines import Run, simulate


def find(seeds: Sequence[int], folder: Path | None, console: Console, together_as: Mapping[str, Run] | None = None) -> Findings:
    """Train every way once for each seed.

    Args:
        folder: keeps the federated runs of the first seed, a folder each; None keeps none.
        together_as: the federated runs, if they were made over a network, once each; None simulates them.

    Raises InvalidInput for a centre without a test part.
    """
    data, common = heart_disease(), heart_disease("pooled")
    scores: dict[tuple[str, str], list[Numbers]] = {}
    runs: dict[str, Run] = dict(together_as or {})

    def note(way: str, run: Run, centres: Federation) -> None:
        """Keep the scores of a run's model on each centre's test patients."""
        for centre in centres:
            if centre.test is None:
                raise InvalidInput(f"{centre.name} has no test part.")
            scored = MODEL.evaluate(run.model.vector, centre.test)
            scores.setdefault((way, centre.name), []).append(np.asarray(scored.scores, np.float64))

    for name, run in runs.items():
        note(name, run, data)
    for seed in track(seeds, "training", console=console, transient=True, disable=not console.is_terminal):
        for centre in data:
            note(f"only {centre.name}", _trained(CENTRAL, data.subset([centre.name]), seed), data)
        note(POOLED, _trained(CENTRAL, together(data), seed), data)
        note(ONE_SCALE, _trained(CENTRAL, together(common), seed), common)
        for name, algorithm in FEDERATED.items() if together_as is None else ():
            kept = folder / name.lower() if folder is not None and seed == seeds[0] else None
            run = simulate(Study(algorithm, ROUNDS, name=name), data, seed=seed, workers=0, folder=kept, watcher=Silent())
            runs.setdefault(name, run)
            note(name, run, data)
    labels = {c.name: np.asarray(c.test.y, np.int64) for c in data if c.test is not None}
    stacked = {key: np.stack(rows) for key, rows in scores.items()}
    return Findings(data, tuple(seeds), labels, stacked, runs, runs[MAIN].statement, together_as is not None)


def _trained(algorithm: GradientAlgorithm, data: Federation, seed: int) -> Run:
    """A training in one place, as FedAvg with one client and one round."""
    return simulate(Study(algorithm), data, seed=seed, workers=0, watcher=Silent())


def together(data: Federation) -> Federation:
    """All patients in one place, as one client. Only a demonstration can do this."""
    return replace(data, clients=(Client("all centres", data.pooled(), data.pooled("test")),))
