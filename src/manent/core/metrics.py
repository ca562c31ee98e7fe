"""Metrics as sums. Each metric is a few numbers that are added up over the clients, and a function of the total.

So a metric travels as blocks of a vector, through the same layers and summation as an update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from manent.core.errors import InvalidInput
from manent.core.vectors import Array, Block, Entry

Task = Literal["binary", "multiclass", "regression"]
AUC_BINS = 1000  # bins of the predicted probability, in which scores are counted for the AUC


@dataclass(frozen=True)
class Scored:
    """A model's answers on some examples.

    Attributes:
        scores: logits [n] (binary), logits [n, classes] or [n, length, classes] (multiclass), or predictions [n] (regression).
        y: targets [n] or [n, length].
        loss: the mean loss.
    """

    scores: Array
    y: Array
    loss: float

    @property
    def count(self) -> int:
        """Number of answers. Each position of a sequence counts."""
        return int(self.y.size)

    @property
    def labels(self) -> Array:
        """int64, the predicted classes, shaped like y."""
        if self.scores.ndim == self.y.ndim:
            return (self.scores > 0).astype(np.int64)
        labels: Array = self.scores.argmax(axis=-1)
        return labels


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: by which it is asked for.
        tasks: the kinds of model that it fits.
        size: a function of the number of classes: how many numbers a client sends.
        statistic: a function of (scored, classes) that gives these numbers, float64[size].
        finish: a function of (total, count) that makes the metric of the summed numbers and the number of answers.
    """

    name: str
    tasks: tuple[Task, ...]
    size: Callable[[int], int]
    statistic: Callable[[Scored, int], Array]
    finish: Callable[[Array, float], float]


def _accuracy(scored: Scored, classes: int) -> Array:
    return np.array([(scored.labels == scored.y).sum()], np.float64)


def _squared_error(scored: Scored, classes: int) -> Array:
    return np.array([((scored.scores.astype(np.float64) - scored.y) ** 2).sum()])


def _confusion(scored: Scored, classes: int) -> Array:
    """float64[3 * classes]: true positives of each class, then how often each was predicted, then how often each is true."""
    y, labels = scored.y.reshape(-1).astype(np.int64), scored.labels.reshape(-1)
    hits = np.bincount(y[labels == y], minlength=classes)
    return np.concatenate([hits, np.bincount(labels, minlength=classes), np.bincount(y, minlength=classes)]).astype(float)


def _f1(total: Array, count: float) -> float:
    hits, predicted, actual = total.reshape(3, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = np.where(predicted + actual > 0, 2 * hits / (predicted + actual), np.nan)
    if len(scores) == 2:
        return float(scores[1]) if predicted[1] + actual[1] > 0 else 0.0
    return float(np.nanmean(scores)) if (predicted + actual).any() else 0.0


def _score_bins(scored: Scored, classes: int) -> Array:
    """float64[2 * AUC_BINS]: counts by predicted probability in equal bins, for the negatives and then for the positives."""
    probability = 1 / (1 + np.exp(-np.clip(scored.scores.astype(np.float64), -500, 500)))
    bins = np.minimum((probability * AUC_BINS).astype(np.int64), AUC_BINS - 1)
    return np.concatenate([np.bincount(bins[scored.y == label], minlength=AUC_BINS) for label in (0, 1)]).astype(float)


def _auc(total: Array, count: float) -> float:
    """The area under the ROC curve. Pairs within one bin count half. NaN where one class is absent."""
    negative, positive = total.reshape(2, -1)
    pairs = negative.sum() * positive.sum()
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", ("binary", "multiclass"), lambda c: 1, _accuracy, lambda t, n: float(t[0] / n)),
        Metric(
            "loss",
            ("binary", "multiclass", "regression"),
            lambda c: 1,
            lambda s, c: np.array([s.loss * s.count if s.count else 0.0]),
            lambda t, n: float(t[0] / n),
        ),
        Metric("rmse", ("regression",), lambda c: 1, _squared_error, lambda t, n: float(np.sqrt(max(t[0] / n, 0.0)))),
        Metric("f1", ("binary", "multiclass"), lambda c: 3 * c, _confusion, _f1),
        Metric("auc", ("binary",), lambda c: 2 * AUC_BINS, _score_bins, _auc),
    )
}


def default_metrics(task: Task) -> tuple[str, ...]:
    """The metrics that are measured where none are named."""
    return ("rmse", "loss") if task == "regression" else ("accuracy", "loss")


def check_metrics(names: Sequence[str], task: Task) -> None:
    """Raises InvalidInput for an unknown metric, and for one that does not fit the task."""
    for name in names:
        if name not in METRICS:
            raise InvalidInput(f"Unknown metric {name!r}; expected one of {', '.join(METRICS)}.")
        if task not in METRICS[name].tasks:
            raise InvalidInput(f"Metric {name!r} does not fit a {task} model; it is for {', '.join(METRICS[name].tasks)}.")


def metric_blocks(names: Sequence[str], classes: int) -> tuple[Block, ...]:
    """The blocks in which metrics travel: "examples", the number of answers, and then one block for each metric."""
    blocks = [Block("examples", (Entry("examples", ()),))]
    return (*blocks, *(Block(n, (Entry(n, (METRICS[n].size(classes),)),)) for n in names))


def statistics(names: Sequence[str], scored: Scored, classes: int) -> NDArray[np.float64]:
    """float64[d], what one client sends, laid out as `metric_blocks`."""
    return np.concatenate([[scored.count], *(METRICS[n].statistic(scored, classes) for n in names)])


def finish(names: Sequence[str], total: Array, classes: int) -> dict[str, float]:
    """The metrics of a summed vector [d], laid out as `metric_blocks`. NaN where nobody gave an answer."""
    count, values, start = float(total[0]), {}, 1
    for name in names:
        size = METRICS[name].size(classes)
        values[name] = METRICS[name].finish(total[start : start + size], count) if count > 0 else float("nan")
        start += size
    return values


def measure(names: Sequence[str], scored: Scored, classes: int) -> dict[str, float]:
    """The metrics of one data set. The AUC is exact here, without bins; ties count half."""
    values = finish(names, statistics(names, scored, classes), classes)
    if "auc" in values:
        values["auc"] = _exact_auc(scored)
    return values


def _exact_auc(scored: Scored) -> float:
    unique, where = np.unique(scored.scores, return_inverse=True)
    positive = np.bincount(where[scored.y == 1], minlength=len(unique)).astype(np.float64)
    negative = np.bincount(where[scored.y == 0], minlength=len(unique)).astype(np.float64)
    return _auc(np.concatenate([negative, positive]), scored.count)
