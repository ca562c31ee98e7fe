"""What the demonstration finds: test scores of each way of learning at each centre, and how the ways differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from manent.app.demo.ways import ALONE
from manent.core.metrics import Scored, measure
from manent.core.randomness import repeatable
from manent.data import Federation
from manent.engines import Run
from manent.privacy import Statement

FEW = 5
"""With fewer test patients than this of either class, a centre's AUC is not judged."""
RESAMPLES = 4000
"""Bootstrap samples behind an interval."""

Numbers = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """How a metric differs between two ways of learning at one centre.

    Attributes:
        first, second: the metric of each, as a mean over seeds.
        low, high: 95 % bootstrap interval of second - first, over the centre's test patients; NaN where it is not judged.
        judged: whether there are enough patients to say anything.
    """

    first: float
    second: float
    low: float
    high: float
    judged: bool = True

    @property
    def verdict(self) -> str:
        """One of "gained", "lost", "unclear" and "not judged"."""
        if not self.judged:
            return "not judged"
        return "gained" if self.low > 0 else "lost" if self.high < 0 else "unclear"


@dataclass(frozen=True)
class Findings:
    """What was found. The ways of learning are "only CENTRE", "pooled", "pooled, one scale", and those of `FEDERATED`.

    Attributes:
        data: the four centres.
        seeds: of the trainings, in the order of `scores`.
        labels: int64[patients] for each centre: its test patients, 1 for ill.
        scores: float64[seeds, patients] for each way and centre: the model's score of each test patient, above 0 for ill.
        runs: the run of each federated way with the first seed.
        statement: who sees what in the main way.
        once: whether the federated ways were trained only once, over a network.
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
        """Their names."""
        return self.data.names

    def way(self, name: str, centre: str) -> str:
        """The key of a way in `scores`: "alone" at a centre means that centre's own model."""
        return f"only {centre}" if name == ALONE else name

    def metric(self, metric: str, way: str, centre: str) -> Numbers:
        """A way's "auc" or "accuracy" at a centre, float64[seeds]."""
        y, scores = self.labels[centre], self.scores[self.way(way, centre), centre]
        return np.array([measure((metric,), Scored(row, y, 0.0), 2)[metric] for row in scores])

    def overall(self, way: str) -> Numbers:
        """The share of all centres' test patients that a way classifies correctly, float64[seeds]."""
        right = [(self.scores[self.way(way, c), c] > 0) == self.labels[c] for c in self.centres]
        overall: Numbers = np.concatenate(right, axis=1).mean(axis=1)
        return overall

    def commonest(self, centre: str) -> float:
        """The accuracy of giving each of a centre's test patients the commoner diagnosis."""
        share = float(self.labels[centre].mean())
        return max(share, 1 - share)

    @cached_property
    def _differences(self) -> dict[tuple[str, str, str, str], Difference]:
        """Those that were computed already: the bootstrap is slow."""
        return {}

    def difference(self, metric: str, first: str, second: str, centre: str) -> Difference:
        """How a metric of the way `second` differs from that of `first` at a centre."""
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
        """Every number of the report, as values for JSON."""
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
    """float64[ill, healthy]: how often, over seeds, the ill patient is scored above the healthy one. A tie counts half."""
    ill, healthy = scores[:, y == 1, None], scores[:, None, y == 0]
    wins: Numbers = ((ill > healthy) + 0.5 * (ill == healthy)).mean(axis=0)
    return wins


def _interval(values: Numbers) -> tuple[float, float]:
    """The middle 95 % of some values."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
