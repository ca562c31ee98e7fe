"""The pictures of the hospitals' report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from manent.app.demo.findings import Findings
from manent.app.demo.ways import ALONE, FEDERATED, MAIN, POOLED
from manent.engines.plots import FAINT, INK, PALETTE, QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {ALONE: "#6b7783", POOLED: "#222222", "FedAvg": PALETTE[0], "FedAdam": PALETTE[1]}
NAMES = {ALONE: "alone", POOLED: "all data in one place", "FedAvg": "together: FedAvg", "FedAdam": "together: FedAdam"}


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def side_by_side(findings: Findings) -> Figure:
    """Each way's AUC and accuracy at each centre: a dot for each seed, a bar at the mean, the base rate as a dashed line."""
    ways = (ALONE, POOLED, *FEDERATED)
    figure = _figure(12, 5.4)
    grid = figure.subplots(2, len(findings.centres), sharex="row", sharey=True)
    for row, metric in enumerate(("auc", "accuracy")):
        for axes, centre in zip(grid[row], findings.centres, strict=True):
            for place, way in enumerate(ways):
                values = findings.metric(metric, way, centre)
                spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
                axes.scatter(values, place + spread, s=16, color=COLOURS[way], alpha=0.45, linewidth=0)
                axes.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=COLOURS[way], linewidth=3)
                axes.annotate(
                    f"{values.mean():.2f}",
                    (values.mean(), place - 0.32),
                    ha="center",
                    va="bottom",
                    fontsize=9,
                    fontweight="bold",
                    color=COLOURS[way],
                )
            mark = 0.5 if metric == "auc" else findings.commonest(centre)
            axes.axvline(mark, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
            label = "a coin" if metric == "auc" else f"base rate {mark:.2f}"
            right = mark > 0.6
            axes.annotate(label, (mark, len(ways) - 0.42), fontsize=8, color=QUIET, ha="right" if right else "left", va="bottom",
                          xytext=(-3 if right else 3, 0), textcoords="offset points")  # fmt: skip
            _tidy(axes)
            axes.set_yticks(range(len(ways)), [NAMES[way] for way in ways])
            axes.set_ylim(len(ways) - 0.25, -0.75)
            if row == 0:
                y = findings.labels[centre]
                axes.set_title(f"{centre}\n{len(y)} test patients, {int(y.sum())} ill", loc="left", fontsize=11, color=INK)
        grid[row][0].set_ylabel({"auc": "AUC", "accuracy": "accuracy"}[metric], fontsize=11.5, color=INK, fontweight="bold")
    return figure


def travels(findings: Findings) -> Figure:
    """The AUC of every model at every centre: a row says where it was trained, a column where it was tried."""
    ways = [f"only {centre}" for centre in findings.centres] + [*FEDERATED, POOLED]
    values = np.array([[findings.metric("auc", way, centre).mean() for centre in findings.centres] for way in ways])
    figure = _figure(8.6, 4.6)
    axes: Any = figure.subplots()
    axes.imshow(values, cmap="Blues", vmin=0.4, vmax=1.05, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        own = row == column
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=12, color="white" if value > 0.78 else INK,
                  fontweight="bold" if own else "normal")  # fmt: skip
        if own:
            box = {"fill": False, "edgecolor": PALETTE[1], "linewidth": 2.5, "zorder": 3}
            axes.add_patch(_rectangle(column - 0.48, row - 0.45, 0.96, 0.88, box))
    axes.axhline(len(findings.centres) - 0.5, color="white", linewidth=5)
    labels = [f"trained at {way.removeprefix('only ')} only" for way in ways[: len(findings.centres)]]
    axes.set_yticks(range(len(ways)), labels + [NAMES[way] for way in ways[len(findings.centres) :]])
    axes.set_xticks(range(len(findings.centres)), [f"tried at\n{_marked(findings, centre)}" for centre in findings.centres])
    axes.xaxis.tick_top()
    _tidy(axes)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    return figure


def _marked(findings: Findings, centre: str) -> str:
    """A centre's name, with a star where it has too few patients to be judged."""
    return centre if findings.difference("auc", ALONE, MAIN, centre).judged else f"{centre} *"


def _rectangle(x: float, y: float, width: float, height: float, style: dict[str, Any]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, **style)


def _tidy(axes: Any) -> None:
    """Leave only the bottom line of the frame, and a faint grid."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
