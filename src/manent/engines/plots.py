"""Pictures of runs: each metric by round, by bytes and by seconds, with the spread over clients where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from manent.core.errors import InvalidInput, MissingExtra
from manent.core.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, FAINT = "#22313f", "#5d6b78", "#e3e8ec"
# Okabe and Ito's colours, which people with any colour vision tell apart; the pale yellow is left out.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
STYLES = ("solid", (0, (5, 2)), (0, (1, 1.2)))
LABEL = 24
"""Characters in a line of a label."""
BANDS = 4
"""More runs than this are drawn without bands, because the bands would hide each other."""
ORDER = ("accuracy", "auc", "rmse", "f1", "loss")
LOWER = ("loss", "rmse")

Row = Mapping[str, Any]
"""A row of a run's history or probe; see `Run`."""
Source = Literal["test", "clients", "history"]
Runs = Mapping[str, tuple[Sequence[Row], Sequence[Row]]]
Numbers = NDArray[np.float64]
NOTES: Mapping[Source, str] = {
    "test": "Line: the central test set.",
    "clients": "Line: mean over the clients' own test parts.",
    "history": "Line: all rows of the clients' test parts, as summed in the study.",
}


@dataclass(frozen=True)
class Curve:
    """One metric of one run.

    Attributes:
        x: "round" and "bytes" of each point, [points]; "seconds" too where the run has a probe that says them.
        y: the metric, [points].
        sd: its standard deviation over clients, [points], or None.
    """

    name: str
    colour: str
    style: Any
    x: Mapping[str, Numbers]
    y: Numbers
    sd: Numbers | None


def plot_runs(runs: Runs, path: str | Path | None = None, metrics: Sequence[str] | None = None) -> Figure:
    """Draw runs into one figure: one row a metric; columns by round, by bytes sent (up and down, all clients) and by seconds.

    The last column is left out unless every run has a probe: a history does not say how long its rounds took.

    Args:
        runs: history rows and probe rows (see `Run`) by the run's name.
        path: where to save the figure, as PNG, SVG or PDF by its ending.
        metrics: which to draw; None takes the first that fits the task, and the loss.

    Raises InvalidInput where the runs have no metric by round in common, and MissingExtra without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "plots", "Drawing") from None
    source, names = _choose(runs, metrics)
    drawn = [_curves(runs, metric, source) for metric in names]
    timed = all("seconds" in curve.x for curves in drawn for curve in curves)
    titles = {"round": "by round", "bytes": "by data sent"} | ({"seconds": "by time"} if timed else {})
    figure = Figure(figsize=(12.5, 1.5 + 3.0 * len(names)), layout="constrained", facecolor="white")
    grid = figure.subplots(len(names), len(titles), sharey="row", squeeze=False)
    for row, (axes, metric, curves) in enumerate(zip(grid, names, drawn, strict=True)):
        for axis, by in zip(axes, titles, strict=True):
            _panel(axis, curves, by)
            if row == 0:
                axis.set_title(titles[by], loc="left", fontsize=11.5, color=INK, pad=8)
        better = "lower" if metric in LOWER else "higher"
        axes[0].set_ylabel(f"{metric}\n({better} is better)", fontsize=10.5, color=INK)
        _limits(axes[0], curves)
        _direct_labels(axes[-1], curves, list(titles)[-1])
    heading = "  |  ".join(runs) if len(runs) <= 4 else f"{len(runs)} runs"
    figure.suptitle(heading, x=0.01, ha="left", fontsize=14, fontweight="bold", color=INK)
    figure.supxlabel(_note(runs, source), x=0.01, ha="left", fontsize=9.5, color=QUIET)
    if path is not None:
        save(figure, path)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file. Its ending names the format; raises InvalidInput for one that cannot be written."""
    known = sorted(figure.canvas.get_supported_filetypes())
    if Path(path).suffix.removeprefix(".") not in known:
        raise InvalidInput(f"Cannot draw to {path}; its ending must be one of {', '.join(known)}, such as .png or .svg.")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _choose(runs: Runs, metrics: Sequence[str] | None) -> tuple[Source, list[str]]:
    """Where the numbers of all runs come from, and which metrics to draw."""
    if not runs:
        raise InvalidInput("Nothing to plot: expected at least one run.")
    sources: tuple[Source, ...] = ("test", "clients", "history")
    found = {source: [_known(run, source) for run in runs.values()] for source in sources}
    for source in sources:
        common = set.intersection(*found[source])
        wanted = [name for name in (metrics or _default(common)) if name in common]
        if wanted:
            return source, wanted
    bare = [name for index, name in enumerate(runs) if not any(found[source][index] for source in sources)]
    if bare:
        raise InvalidInput(
            f"{bare[0]!r} has no metric by round to draw. A query has one answer and no curve; a training run needs a finished "
            f"round, and test parts or a central test set."
        )
    raise InvalidInput(f"The runs {', '.join(map(repr, runs))} have no metric in common; plot them one by one.")


def _default(common: set[str]) -> list[str]:
    ordered = [name for name in ORDER if name in common]
    return [*ordered[:1], *(name for name in ordered[1:] if name == "loss")]


def _known(run: tuple[Sequence[Row], Sequence[Row]], source: Source) -> set[str]:
    history, probe = run
    if source == "history":
        return {name for row in history for name in row if name in METRICS}
    return {name for row in probe for name, value in row.get(source, {}).items() if value not in ({}, None)}


def _curves(runs: Runs, metric: str, source: Source) -> list[Curve]:
    curves = []
    for index, (name, (history, probe)) in enumerate(runs.items()):
        colour, style = PALETTE[index % len(PALETTE)], STYLES[index // len(PALETTE) % len(STYLES)]
        label = "test set" if len(runs) == 1 and source == "test" else name
        curves.append(_curve(label, colour, style, history, probe, metric, source))
        if len(runs) == 1 and source == "test" and metric in _known((history, probe), "clients"):
            curves.append(_curve("clients", PALETTE[1], STYLES[1], history, probe, metric, "clients"))
    return curves


def _curve(
    name: str, colour: str, style: Any, history: Sequence[Row], probe: Sequence[Row], metric: str, source: Source
) -> Curve:
    if source == "history":
        rows = [row for row in history if metric in row]
        values = [row[metric] for row in rows]
    else:
        rows = [row for row in probe if row.get(source, {}).get(metric) not in ({}, None)]
        values = [row[source][metric] for row in rows]
    spread = source == "clients"
    return Curve(
        name,
        colour,
        style,
        _places([row["round"] for row in rows], history, probe),
        np.array([value["mean"] if spread else value for value in values], np.float64),
        np.array([value["sd"] for value in values], np.float64) if spread else None,
    )


def _places(rounds: Sequence[int], history: Sequence[Row], probe: Sequence[Row]) -> dict[str, Numbers]:
    """Where the points of these rounds stand, by each x of a `Curve`."""
    bytes_after: dict[int, int] = {}
    for row, total in zip(history, accumulate(row["bytes_up"] + row["bytes_down"] for row in history), strict=True):
        bytes_after[row["round"]] = total
    seconds_after = {row["round"]: row["seconds"] for row in probe}
    x = {"round": np.array(rounds, np.float64), "bytes": np.array([bytes_after.get(r, 0) for r in rounds], np.float64)}
    if all(r in seconds_after for r in rounds):
        x["seconds"] = np.array([seconds_after[r] for r in rounds], np.float64)
    return x


def _panel(axes: Any, curves: Sequence[Curve], by: str) -> None:
    for curve in curves:
        x = curve.x[by]
        if curve.sd is not None and len(curves) <= BANDS:
            low, high = curve.y - curve.sd, curve.y + curve.sd
            axes.fill_between(x, low, high, color=curve.colour, alpha=0.13 if len(curves) <= 2 else 0.06, linewidth=0)
            for edge in (low, high) if len(curves) > 2 else ():
                axes.plot(x, edge, color=curve.colour, linewidth=0.8, alpha=0.5)
        marker = "o" if len(x) <= 25 else None
        axes.plot(x, curve.y, color=curve.colour, linestyle=curve.style, linewidth=2, marker=marker, markersize=3.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel({"round": "round", "bytes": "sent by all, up and down", "seconds": "seconds"}[by], fontsize=9.5, color=QUIET)
    axes.xaxis.set_major_locator(_ticks(integer=by == "round"))
    if by == "bytes":
        axes.xaxis.set_major_formatter(lambda value, _: size(value))
    else:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _ticks(integer: bool) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, integer=integer)


def _limits(axes: Any, curves: Sequence[Curve]) -> None:
    """Leave room for curves and bands, but not beyond the values that the metric can have."""
    spread = [np.zeros(len(c.y)) if c.sd is None or len(curves) > BANDS else c.sd for c in curves]
    low = min(float((c.y - sd).min()) for c, sd in zip(curves, spread, strict=True))
    high = max(float((c.y + sd).max()) for c, sd in zip(curves, spread, strict=True))
    room = 0.06 * (high - low) or 0.05
    share = all(0 <= value <= 1 for c in curves for value in (c.y.min(), c.y.max()))
    axes.set_ylim(max(low - room, 0.0), min(high + room, 1.02) if share and high <= 1.2 else high + room)


def _direct_labels(axes: Any, curves: Sequence[Curve], by: str) -> None:
    """Write names and last values at the right edge, without overlaps, each with a dotted line from the end of its curve."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    lines = max(len(wrap(f"{curve.name}  0.000", LABEL)) for curve in curves)
    step = (0.02 + 0.065 * lines) * (high - low)
    order = sorted(range(len(curves)), key=lambda i: float(curves[i].y[-1]))
    places = _apart([float(curves[i].y[-1]) for i in order], step, low, high)
    for i, place in zip(order, places, strict=True):
        curve, last = curves[i], float(curves[i].y[-1])
        end = float(curve.x[by][-1])
        axes.plot([end, right], [last, last], color=curve.colour, linewidth=0.8, linestyle=(0, (1, 2)), clip_on=False)
        axes.annotate(
            "\n".join(wrap(f"{curve.name}  {last:.3f}", LABEL)),
            xy=(right, last),
            xytext=(right + 0.035 * (right - left), place),
            color=curve.colour,
            fontsize=10,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": curve.colour,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )
    axes.set_xlim(left, right)


def _apart(values: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Places near sorted values: at least `step` from each other, and within the limits where there is room."""
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _spread(groups[-2], step)[-1] + step > _spread(groups[-1], step)[0]:
            groups[-2:] = [groups[-2] + groups[-1]]
    places = [place for group in groups for place in _spread(group, step)]
    shift = max(low - places[0], 0.0) or min(high - places[-1], 0.0)
    return [place + shift for place in places] if len(groups) == 1 else places


def _spread(group: Sequence[float], step: float) -> list[float]:
    """Places a step apart, around the middle of the values."""
    middle = sum(group) / len(group)
    return [middle + step * (i - (len(group) - 1) / 2) for i in range(len(group))]


def _note(runs: Runs, source: Source) -> str:
    spread = source == "clients" or (source == "test" and len(runs) == 1 and _known(next(iter(runs.values())), "clients"))
    note = NOTES[source]
    if source == "test" and spread:
        note += " Dashed: mean over the clients' own test parts."
    if spread and len(runs) <= BANDS:
        note += " Band: one standard deviation over clients."
    return note + (" What only a simulation can know; not private." if source != "history" else "")


def size(count: float) -> str:
    """Bytes for people: 1.5 MB."""
    if not count:
        return "0"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"
