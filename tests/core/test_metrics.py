"""Metrics against scikit-learn, and as sums over clients."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from manent.core.errors import InvalidInput
from manent.core.metrics import METRICS, Scored, check_metrics, default_metrics, finish, measure, metric_blocks, statistics
from manent.core.vectors import Layout


def binary(n: int, seed: int, ties: bool = False) -> Scored:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    y[:2] = [0, 1]
    scores = rng.normal(size=n) + y
    return Scored((np.round(scores) if ties else scores).astype(np.float32), y, 0.5)


def multiclass(n: int, classes: int, seed: int) -> Scored:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return Scored((rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[y]).astype(np.float32), y, 1.0)


def regression(n: int, seed: int) -> Scored:
    rng = np.random.default_rng(seed)
    return Scored(rng.normal(size=n).astype(np.float32), rng.normal(size=n).astype(np.float32), 1.0)


seeds, counts = st.integers(0, 2**20), st.integers(2, 60)


@given(counts, seeds, st.booleans())
def test_binary_metrics_are_scikit_learns(n, seed, ties):
    scored = binary(n, seed, ties)
    found = measure(["accuracy", "f1", "auc"], scored, 2)
    labels = scored.scores > 0
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(scored.y, labels))
    assert found["f1"] == pytest.approx(reference.f1_score(scored.y, labels))
    assert found["auc"] == pytest.approx(reference.roc_auc_score(scored.y, scored.scores))


@pytest.mark.filterwarnings("ignore:F-score is ill-defined")
@given(counts, st.integers(3, 6), seeds)
def test_multiclass_metrics_are_scikit_learns(n, classes, seed):
    scored = multiclass(n, classes, seed)
    found = measure(["accuracy", "f1"], scored, classes)
    labels = scored.scores.argmax(1)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(scored.y, labels))
    assert found["f1"] == pytest.approx(reference.f1_score(scored.y, labels, average="macro"))


@given(counts, seeds)
def test_rmse_is_scikit_learns(n, seed):
    scored = regression(n, seed)
    assert measure(["rmse"], scored, 0)["rmse"] == pytest.approx(reference.root_mean_squared_error(scored.y, scored.scores))


@settings(max_examples=30)
@given(st.integers(100, 2000), seeds)
def test_auc_from_bins_is_near_the_exact_one(n, seed):
    scored = binary(n, seed)
    binned = finish(["auc"], statistics(["auc"], scored, 2), 2)["auc"]
    assert binned == pytest.approx(reference.roc_auc_score(scored.y, scored.scores), abs=2e-3)


def parts(scored: Scored, cuts: list[int]) -> list[Scored]:
    """The rows dealt to clients; the loss of each is that of its squared scores, so that losses differ."""
    bounds = [0, *sorted(cuts), scored.count]
    rows = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    return [
        Scored(scored.scores[r], scored.y[r], float((scored.scores[r] ** 2).mean()) if len(scored.y[r]) else math.nan)
        for r in rows
    ]


@given(st.sampled_from(["binary", "multiclass", "regression"]), counts, seeds, st.data())
def test_sums_over_clients_give_the_pooled_metric(kind, n, seed, data):
    scored = {"binary": binary(n, seed), "multiclass": multiclass(n, 4, seed), "regression": regression(n, seed)}[kind]
    scored = Scored(scored.scores, scored.y, float((scored.scores**2).mean()))
    classes = {"binary": 2, "multiclass": 4, "regression": 0}[kind]
    names = [name for name, metric in METRICS.items() if kind in metric.tasks]
    cuts = data.draw(st.lists(st.integers(0, n), max_size=5))
    total = sum(statistics(names, part, classes) for part in parts(scored, cuts))
    assert len(total) == Layout(metric_blocks(names, classes)).size
    pooled, summed = finish(names, statistics(names, scored, classes), classes), finish(names, total, classes)
    for name in names:
        assert summed[name] == pytest.approx(pooled[name], nan_ok=True), name
    exact = measure(names, scored, classes)
    assert all(pooled[name] == pytest.approx(exact[name]) for name in names if name != "auc")


def test_each_position_of_a_sequence_is_an_answer():
    y = np.array([[0, 1, 2], [2, 2, 0]])
    scored = Scored(np.eye(3)[np.array([[0, 1, 1], [2, 2, 1]])], y, 1.0)
    assert scored.count == 6
    assert measure(["accuracy"], scored, 3)["accuracy"] == pytest.approx(4 / 6)
    assert measure(["f1"], scored, 3)["f1"] == pytest.approx(
        reference.f1_score(y.ravel(), scored.labels.ravel(), average="macro")
    )


def test_without_answers_or_with_one_class_there_is_no_value():
    empty = Scored(np.zeros(0), np.zeros(0, int), math.nan)
    names = ["accuracy", "loss", "f1", "auc"]
    assert statistics(names, empty, 2).tolist() == [0.0] * (1 + 1 + 1 + 6 + 2000)
    assert all(math.isnan(value) for value in measure(names, empty, 2).values())
    positives = Scored(np.array([1.0, -1.0]), np.array([1, 1]), 0.3)
    assert math.isnan(measure(["auc"], positives, 2)["auc"])


def test_f1_where_the_positive_class_never_occurs_is_zero():
    assert measure(["f1"], Scored(np.array([-1.0, -2.0]), np.array([0, 0]), 0.0), 2)["f1"] == 0


def test_extreme_scores_fall_into_the_outer_bins():
    scored = Scored(np.array([-1e9, 1e9, -np.inf, np.inf], np.float32), np.array([0, 1, 0, 1]), 0.0)
    counted = statistics(["auc"], scored, 2)[1:].reshape(2, -1)
    assert counted[0, 0] == 2
    assert counted[1, -1] == 2


@given(seeds, st.integers(0, 100))
def test_auc_of_reversed_scores_is_its_complement(seed, n):
    scored = binary(n + 2, seed, ties=True)
    forward, back = (measure(["auc"], Scored(sign * scored.scores, scored.y, 0.0), 2)["auc"] for sign in (1, -1))
    assert forward + back == pytest.approx(1)


def test_metrics_are_checked_by_name_and_task():
    for task in ("binary", "multiclass", "regression"):
        check_metrics(default_metrics(task), task)
    with pytest.raises(InvalidInput, match="'acuracy'; expected one of accuracy"):
        check_metrics(["acuracy"], "binary")
    with pytest.raises(InvalidInput, match="'auc' does not fit a multiclass model; it is for binary"):
        check_metrics(["loss", "auc"], "multiclass")
