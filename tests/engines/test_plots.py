"""Plots: what is drawn for which runs, and that labels do not hide each other."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.engines.plots import _apart, plot_runs, size

Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def run(rounds: int = 5, level: float = 0.6, test: bool = True, clients: bool = True, up: int = 100) -> Rows:
    history = [
        {"round": r, "sum": "train", "cohort": 4, "answers": 4, "bytes_up": up, "bytes_down": 50} for r in range(1, rounds + 1)
    ]
    probe = []
    for r in range(1, rounds + 1):
        row: dict[str, Any] = {"round": r, "seconds": 0.5 * r + 0.1}
        if test:
            row["test"] = {"accuracy": level + 0.01 * r, "loss": 1 / r}
        if clients:
            row["clients"] = {"accuracy": {"mean": level, "sd": 0.1, "min": 0.4, "max": 0.8}, "loss": {"mean": 1 / r, "sd": 0.2}}
        probe.append(row)
    return history, probe


def lines(axes: Any) -> list[Any]:
    return [line for line in axes.lines if line.get_linewidth() == 2]


def test_three_columns_show_the_same_metric_by_round_bytes_and_seconds() -> None:
    figure = plot_runs({"one": run(up=100), "two": run(level=0.7, up=300)})
    assert len(figure.axes) == 6
    by_round, by_bytes, by_seconds = figure.axes[:3]
    assert lines(by_round)[0].get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert lines(by_bytes)[1].get_xdata().tolist() == [350, 700, 1050, 1400, 1750]
    assert lines(by_seconds)[0].get_xdata() == pytest.approx([0.6, 1.1, 1.6, 2.1, 2.6])
    assert lines(by_round)[1].get_ydata() == pytest.approx(0.7 + 0.01 * np.arange(1, 6))


def test_one_run_shows_the_test_set_and_the_band_over_clients() -> None:
    axes = plot_runs({"one": run()}).axes[0]
    assert len(lines(axes)) == 2
    assert len(axes.collections) == 1
    low, high = axes.collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == pytest.approx((0.5, 0.7))


def test_without_a_central_test_set_the_clients_mean_is_drawn() -> None:
    axes = plot_runs({"one": run(test=False), "two": run()}).axes[0]
    assert [line.get_ydata()[-1] for line in lines(axes)] == [0.6, 0.6]


def test_without_a_probe_the_evaluated_sums_are_drawn() -> None:
    history, _ = run()
    for row in history:
        row["accuracy"] = 0.5
    figure = plot_runs({"deployed": (history, [])})
    assert lines(figure.axes[0])[0].get_ydata().tolist() == [0.5] * 5


def test_without_a_probe_nothing_is_drawn_by_time() -> None:
    history, probe = run(rounds=3)
    timeless = [{**row, "accuracy": 0.5} for row in history]
    deployed = plot_runs({"deployed": (timeless, [])})
    assert [axes.get_xlabel() for axes in deployed.axes] == ["round", "sent by all, up and down"]
    assert deployed.axes[-1].texts[0].get_text().startswith("deployed")
    both = [{**row, "accuracy": 0.4} for row in history]
    assert len(plot_runs({"deployed": (timeless, []), "simulated": (both, probe)}).axes) == 2


def test_a_metric_of_zero_is_drawn_too() -> None:
    history, probe = run(rounds=2, clients=False)
    probe[0]["test"]["accuracy"] = 0.0
    assert lines(plot_runs({"one": (history, probe)}).axes[0])[0].get_ydata()[0] == 0.0


def test_every_run_is_named_in_its_own_colour() -> None:
    figure = plot_runs({f"run {i}": run(level=0.5 + 0.02 * i, clients=False) for i in range(6)})
    texts = {text.get_text().split("  ")[0]: text.get_color() for text in figure.axes[2].texts}
    assert set(texts) == {f"run {i}" for i in range(6)}
    assert len(set(texts.values())) == 6


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_figure_is_saved_by_its_ending(tmp_path: Path, ending: str) -> None:
    plot_runs({"one": run()}, tmp_path / "deep" / f"run.{ending}")
    assert (tmp_path / "deep" / f"run.{ending}").stat().st_size > 1000


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="at least one run"):
        plot_runs({})
    with pytest.raises(InvalidInput, match="'query' has no metric by round"):
        plot_runs({"query": ([{"round": 1, "bytes_up": 1, "bytes_down": 1, "mean": 3.0}], []), "one": run()})
    with pytest.raises(InvalidInput, match="ending must be one of"):
        plot_runs({"one": run()}, tmp_path / "run.docx")
    history, probe = run(clients=False)
    other = [{"round": r["round"], "seconds": r["seconds"], "test": {"rmse": 1.0}} for r in probe]
    with pytest.raises(InvalidInput, match="no metric in common"):
        plot_runs({"one": (history, probe), "two": (history, other)})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_stay_in_order_and_apart(values: list[float]) -> None:
    places = _apart(sorted(values), 0.1, 0.0, 1.0)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(places))


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (999, "999 B"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (7e12, "7e+03 GB")])
def test_sizes_for_people(count: float, text: str) -> None:
    assert size(count) == text
