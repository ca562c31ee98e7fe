"""The demonstration on four hospitals: each alone, all data in one place, and federated, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from manent.algorithms import FedAdam, FedAvg
from manent.algorithms.gradient import GradientAlgorithm
from manent.app.launch import Silent, default_folder
from manent.app.outcome import who_saw_what
from manent.core.errors import InvalidInput, MissingExtra
from manent.core.examples import Client
from manent.core.metrics import Scored, measure
from manent.core.randomness import repeatable
from manent.core.study import Study
from manent.core.training import LocalSGD
from manent.data import Federation, heart_disease
from manent.engines import Run, simulate
from manent.models.numpy import LogisticModel
from manent.privacy import Statement

FIRST_SEED, ROUNDS, FEATURES = 42, 15, 13
ALONE, POOLED, MAIN = "alone", "pooled", "FedAdam"
FEW = 5
"""With fewer test patients than this of either class, a centre's AUC is not judged."""
RESAMPLES = 4000

Numbers = NDArray[np.float64]
Labels = NDArray[np.int64]

MODEL = LogisticModel(FEATURES, initial="uniform")
# The published recipe of Fed-Heart-Disease (du Terrail et al. 2022): batches of 4; 50 epochs, or 15 x 100 steps.
CENTRAL = FedAvg(MODEL, LocalSGD(lr=0.001, epochs=50, batch_size=4, optimizer="adam"))
FEDERATED: Mapping[str, GradientAlgorithm] = {
    "FedAvg": FedAvg(MODEL, LocalSGD(lr=0.001, steps=100, batch_size=4)),
    "FedAdam": FedAdam(MODEL, LocalSGD(lr=0.01, steps=100, batch_size=4), server_lr=0.01, beta2=0.999, tau=1e-8),
}


@dataclass(frozen=True)
class Difference:
    """How a metric differs between two ways of learning at one centre.

    Attributes:
        first, second: the metric of each, mean over seeds.
        low, high: 95 % bootstrap interval of second - first, over the centre's test patients.
        judged: whether there are patients enough to say anything.
    """

    first: float
    second: float
    low: float
    high: float
    judged: bool = True

    @property
    def verdict(self) -> str:
        """gained, lost, unclear, or not judged."""
        if not self.judged:
            return "not judged"
        return "gained" if self.low > 0 else "lost" if self.high < 0 else "unclear"


@dataclass(frozen=True)
class Findings:
    """What was found. Ways of learning: "only CENTRE", "pooled", "pooled, one scale", and those of `FEDERATED`.

    Attributes:
        labels: int64[patients] of each centre's test part.
        scores: by way and centre, float64[seeds, patients]: the model's score of each test patient.
        runs: of each federated way, the run with the first seed.
        statement: who sees what in the main way.
        once: whether the federated ways were trained once only, over a network.
    """

    data: Federation
    seeds: tuple[int, ...]
    labels: Mapping[str, Labels]
    scores: Mapping[tuple[str, str], Numbers]
    runs: Mapping[str, Run]
    statement: Statement
    once: bool = False

    @property
    def centres(self) -> tuple[str, ...]:
        return self.data.names

    def way(self, name: str, centre: str) -> str:
        """The way's key: "alone" at a centre means that centre's own model."""
        return f"only {centre}" if name == ALONE else name

    def metric(self, metric: str, way: str, centre: str) -> Numbers:
        """One of "auc" and "accuracy" for each seed, [seeds]."""
        y, scores = self.labels[centre], self.scores[self.way(way, centre), centre]
        return np.array([measure((metric,), Scored(row, y, 0.0), 2)[metric] for row in scores])

    def overall(self, way: str) -> Numbers:
        """Share of all centres' test patients that are classified rightly, [seeds]."""
        right = [(self.scores[self.way(way, c), c] > 0) == self.labels[c] for c in self.centres]
        overall: Numbers = np.concatenate(right, axis=1).mean(axis=1)
        return overall

    def commonest(self, centre: str) -> float:
        """The accuracy of giving every test patient the commoner diagnosis."""
        share = float(self.labels[centre].mean())
        return max(share, 1 - share)

    @cached_property
    def _differences(self) -> dict[tuple[str, str, str, str], Difference]:
        return {}

    def difference(self, metric: str, first: str, second: str, centre: str) -> Difference:
        """second against first at a centre."""
        key = metric, first, second, centre
        if key not in self._differences:
            self._differences[key] = self._compared(*key)
        return self._differences[key]

    def _compared(self, metric: str, first: str, second: str, centre: str) -> Difference:
        y = self.labels[centre]
        before, after = (self.scores[self.way(way, centre), centre] for way in (first, second))
        rng = repeatable(0, "bootstrap", metric, first, second, centre)
        means = [float(self.metric(metric, way, centre).mean()) for way in (first, second)]
        if metric == "accuracy":
            change = (((after > 0) == y).astype(float) - ((before > 0) == y)).mean(axis=0)
            resampled = change[rng.integers(len(y), size=(RESAMPLES, len(y)))].mean(axis=1)
            return Difference(means[0], means[1], *_interval(resampled))
        ill, healthy = int(y.sum()), int((1 - y).sum())
        if min(ill, healthy) < FEW:
            return Difference(means[0], means[1], float("nan"), float("nan"), judged=False)
        pairs = _wins(after, y) - _wins(before, y)
        chosen = [rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in (ill, healthy)]
        return Difference(means[0], means[1], *_interval(np.einsum("bi,ij,bj->b", chosen[0], pairs, chosen[1], optimize=True)))

    def to_plain(self) -> dict[str, object]:
        """Every number of the report, as JSON values."""
        ways = sorted({way for way, _ in self.scores})
        return {
            "seeds": list(self.seeds),
            "test_patients": {c: {"all": len(y), "ill": int(y.sum())} for c, y in self.labels.items()},
            "metrics": {
                metric: {
                    way: {c: [round(float(v), 6) for v in self.metric(metric, way, c)] for c in self.centres} for way in ways
                }
                for metric in ("auc", "accuracy")
            },
        }


def _wins(scores: Numbers, y: Labels) -> Numbers:
    """[ill, healthy]: how often, over seeds, the ill patient is scored above the healthy one; ties count half."""
    ill, healthy = scores[:, y == 1, None], scores[:, None, y == 0]
    wins: Numbers = ((ill > healthy) + 0.5 * (ill == healthy)).mean(axis=0)
    return wins


def _interval(values: Numbers) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def find(seeds: Sequence[int], folder: Path | None, console: Console, together_as: Mapping[str, Run] | None = None) -> Findings:
    """Train every way once a seed. The federated runs of the first seed are kept in folders of their own.

    Args:
        together_as: the federated runs, where they were made elsewhere, once each; None simulates them.
    """
    data, common = heart_disease(), heart_disease("pooled")
    scores: dict[tuple[str, str], list[Numbers]] = {}
    runs: dict[str, Run] = dict(together_as or {})

    def note(way: str, run: Run, centres: Federation) -> None:
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
        note(f"{POOLED}, one scale", _trained(CENTRAL, together(common), seed), common)
        for name, algorithm in FEDERATED.items() if together_as is None else ():
            kept = folder / name.lower() if folder is not None and seed == seeds[0] else None
            run = simulate(Study(algorithm, ROUNDS, name=name), data, seed=seed, workers=0, folder=kept, watcher=Silent())
            runs.setdefault(name, run)
            note(name, run, data)
    labels = {c.name: np.asarray(c.test.y, np.int64) for c in data if c.test is not None}
    stacked = {key: np.stack(rows) for key, rows in scores.items()}
    return Findings(data, tuple(seeds), labels, stacked, runs, runs[MAIN].statement, together_as is not None)


def _trained(algorithm: GradientAlgorithm, data: Federation, seed: int) -> Run:
    """One centre's own training: FedAvg with one client and one round is just that."""
    return simulate(Study(algorithm), data, seed=seed, workers=0, watcher=Silent())


def together(data: Federation) -> Federation:
    """All patients in one place, which only a demonstration can do."""
    return replace(data, clients=(Client("all centres", data.pooled(), data.pooled("test")),))


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(([", ".join(names[:-1])] if len(names) > 1 else []) + list(names[-1:]))


def headline(findings: Findings, way: str = MAIN) -> str:
    """In words: for whom learning together told ill from healthy better, or worse, than learning alone, and how sure that is."""
    found = {c: findings.difference("auc", ALONE, way, c) for c in findings.centres}
    judged = {c: d for c, d in sorted(found.items(), key=lambda item: -abs(item[1].second - item[1].first)) if d.judged}
    better = [f"{c} (AUC {d.first:.2f} to {d.second:.2f})" for c, d in judged.items() if round(d.second, 2) > round(d.first, 2)]
    worse = [f"{c} (AUC {d.first:.2f} to {d.second:.2f})" for c, d in judged.items() if round(d.second, 2) < round(d.first, 2)]
    parts = [f"{word} at {listed(which)}" for word, which in (("better", better), ("worse", worse)) if which]
    text = f"Trained together ({way}), the model told ill from healthy "
    text += f"{' and '.join(parts)} than the centre's own." if parts else "as well as each centre's own."
    clear = [c for c, d in judged.items() if d.verdict in ("gained", "lost")]
    if parts and not clear:
        text += " With so few test patients, none of this is beyond chance."
    elif parts and len(clear) < len(better) + len(worse):
        text += f" Beyond chance: {listed(clear)} only."
    return text


def exceptions(findings: Findings, way: str = MAIN) -> str:
    """In words: which other way of learning together did worse than alone, and which centre cannot be judged."""
    parts = []
    for other in FEDERATED:
        lost = [c for c in findings.centres if findings.difference("auc", ALONE, other, c).verdict == "lost"]
        if other != way and lost:
            numbers = [findings.difference("auc", ALONE, other, c) for c in lost]
            pairs = listed([f"{c} ({d.first:.2f} to {d.second:.2f})" for c, d in zip(lost, numbers, strict=True)])
            parts.append(f"{other} was worse than alone, beyond chance, at {pairs}.")
    for centre in findings.centres:
        if not findings.difference("auc", ALONE, way, centre).judged:
            y = findings.labels[centre]
            parts.append(f"{centre} cannot be judged: {_rarer(y)} among its {len(y)} test patients.")
    return " ".join(parts)


def _rarer(y: Labels) -> str:
    ill, healthy = int(y.sum()), int((1 - y).sum())
    return f"{ill} ill" if ill < healthy else f"{healthy} healthy"


def correctness(findings: Findings, way: str = MAIN) -> str:
    """In words: what became of the share of right answers, and where no model beats the base rate."""
    found = {c: findings.difference("accuracy", ALONE, way, c) for c in findings.centres}
    changed = {
        verdict: listed([f"{c} ({d.first:.0%} to {d.second:.0%})" for c, d in found.items() if d.verdict == verdict])
        for verdict in ("gained", "lost")
    }
    parts = [f"{word} at {changed[verdict]}" for verdict, word in (("gained", "rose"), ("lost", "fell")) if changed[verdict]]
    overall = [float(findings.overall(name).mean()) for name in (ALONE, way, POOLED)]
    change = " and ".join(parts) or "did not clearly change at any centre"
    text = (
        f"The share of right answers {change}; over all test patients it was {overall[0]:.0%} with each centre's own model, "
        f"{overall[1]:.0%} together, {overall[2]:.0%} with all data in one place."
    )
    below = [c for c, d in found.items() if max(d.first, d.second) < findings.commonest(c)]
    if below:
        rates = listed([f"{findings.commonest(c):.0%}" for c in below])
        text += f" At {listed(below)} neither beats giving every patient the commoner diagnosis ({rates})."
    return text


def demonstrate(
    folder: Path | None, seeds: int, console: Console, simulated: bool = False, private: bool = False, rounds: int = ROUNDS
) -> Path:
    """Train, compare, and write report.html and results.json. Returns the report's path.

    Args:
        simulated: learn together in a simulation, once a seed, instead of once between processes over TLS.
        private: over the network, with noise for each patient.
        rounds: over the network.

    Raises MissingExtra where what the network needs is not installed.
    """
    from manent.app.report import write_report

    began = time.monotonic()
    where = folder or default_folder("hospitals")
    if (where / "report.html").exists() or (where / "federation").exists():
        raise InvalidInput(f"{where} already holds a report; give another --folder.")
    if not simulated:
        check_network()
    where.mkdir(parents=True, exist_ok=True)
    console.print(f"Four hospitals, 740 patients, one question: who has coronary disease? {_times(seeds, simulated)}\n")
    together_as = None if simulated else _over_the_network(where.absolute() / "federation", rounds, private, console)
    findings = find(tuple(range(FIRST_SEED, FIRST_SEED + seeds)), where, console, together_as)
    (where / "results.json").write_text(json.dumps(findings.to_plain(), indent=1))
    report = write_report(findings, where, time.monotonic() - began)
    console.print(side_by_side(findings))
    console.print(f"[bold]{headline(findings)}[/]\n")
    for sentence in (exceptions(findings), correctness(findings), who_saw_what(findings.statement)):
        console.print(f"{sentence}\n" if sentence else "", end="\n" if sentence else "")
    console.print(f"The report, with plots: [cyan]{report}[/]  ({time.monotonic() - began:.0f} s)")
    return report


def check_network() -> None:
    """Raises MissingExtra where a package that a server or a site needs is not installed."""
    try:
        import manent.network.server.serving
        import manent.network.site.agent  # noqa: F401
    except ImportError as error:
        purpose = "Learning together over a network (without it, in one process: manent demo hospitals --simulate)"
        raise MissingExtra(str(error.name), "server", purpose) from None


def _times(seeds: int, simulated: bool) -> str:
    alone = f"Training {seeds} times in each way."
    return alone if simulated else f"{alone[:-1]}; together once, over a network."


def _over_the_network(folder: Path, rounds: int, private: bool, console: Console) -> Mapping[str, Run]:
    from manent.app import demo_network

    runs = demo_network.train(folder, rounds, private, console)
    for line in demo_network.budgets(folder):
        console.print(line)
    console.print(f"All processes have stopped. What each kept: [cyan]{folder}[/]\n")
    return runs


def side_by_side(findings: Findings) -> Table:
    """A row a centre; AUC and accuracy of each way, mean and sd over seeds."""
    ways = (ALONE, POOLED, *FEDERATED)
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title="Each centre's test patients: mean and sd over trainings" + (", together of one" if findings.once else ""),
        caption="AUC: how well ill are told from healthy; 0.5 is a coin. Base: giving everyone the commoner diagnosis.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for column in ("ill/all", "base", *ways):
        table.add_column(column, justify="right", no_wrap=True)
    for metric in ("auc", "accuracy"):
        table.add_row(f"[bold]{'AUC' if metric == 'auc' else 'Accuracy'}[/]")
        for centre in findings.centres:
            y = findings.labels[centre]
            values = [findings.metric(metric, way, centre) for way in ways]
            cells = [f"{v.mean():.2f}" + (f" ±{v.std():.2f}" if len(v) > 1 else "") for v in values]
            rate = f"{findings.commonest(centre):.2f}" if metric == "accuracy" else ""
            table.add_row(f" {centre}", f"{int(y.sum())}/{len(y)}", rate, *cells, end_section=centre == findings.centres[-1])
    return table
