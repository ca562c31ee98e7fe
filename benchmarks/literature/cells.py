"""What the papers share: a cell of a table, how it is run within its share of time, and how cells are summed up and drawn."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

import manent as mn

INK, QUIET, FAINT = "#22313f", "#5d6b78", "#e3e8ec"
# Okabe and Ito's colours, which people with any colour vision tell apart.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
TAIL = 0.2
"""Share of the rounds whose mean stands for "the accuracy after these rounds"; a single look jumps too much on skewed data."""


@dataclass(frozen=True)
class Job:
    """A cell to be run.

    Attributes:
        name: of the cell; cells that differ only in the seed share it.
        data: makes the federation, when its turn has come.
        every: rounds between two looks at the accuracy.
        target: accuracy at which the run may stop.
        weight: share of the paper's time, relative to its other cells.
    """

    name: str
    seed: int
    study: mn.Study
    data: Callable[[], mn.Federation]
    every: int = 1
    target: float | None = None
    weight: float = 1.0
    conditions: mn.Conditions | None = None


@dataclass(frozen=True)
class Cell:
    """What came of a job: test accuracy by round, and why it ended ("target", "rounds", "time", "diverged")."""

    name: str
    seed: int
    rounds: list[int]
    accuracy: list[float]
    seconds: float
    ended: str

    def to_plain(self) -> dict[str, Any]:
        return {**asdict(self), "accuracy": [round(a, 4) for a in self.accuracy], "seconds": round(self.seconds, 1)}

    def rounds_to(self, target: float) -> float | None:
        """Rounds to a target: the best accuracy so far, interpolated between two looks (McMahan et al. 2017, section 3)."""
        before, best = 0, 0.0
        for at, accuracy in zip(self.rounds, self.accuracy, strict=True):
            if accuracy >= target:
                return float(at) if before == 0 else before + (at - before) * (target - best) / (accuracy - best)
            before, best = at, max(best, accuracy)
        return None

    def tail(self, until: int) -> float:
        """Mean accuracy over the last fifth of so many rounds."""
        seen = [(at, a) for at, a in zip(self.rounds, self.accuracy, strict=True) if at <= until]
        return float(np.mean([a for at, a in seen if at > (1 - TAIL) * seen[-1][0]]))


@dataclass(frozen=True)
class Table:
    """One table of a paper: a heading, columns and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Paper:
    """A published experiment.

    Attributes:
        setting: Markdown: what is as published, and what is not.
        seconds: wall time for all of it, in the quick form and the long one.
        jobs: its cells; arguments quick, seeds or None for the default, folder of MNIST or None.
        tables, differs, draw: from the cells, what is shown: tables, sentences on where ours differs, and a figure.
    """

    name: str
    title: str
    setting: str
    seconds: tuple[float, float]
    jobs: Callable[[bool, int | None, str | None], list[Job]]
    tables: Callable[[Sequence[Cell]], list[Table]]
    differs: Callable[[Sequence[Cell]], list[str]]
    draw: Callable[[Sequence[Cell], Any], None]
    figure_size: tuple[float, float]


class _EnoughError(Exception):
    """Ends a run from its watcher."""


class _Watch:
    """Notes the accuracy, and ends the run at its target or when its time is up."""

    def __init__(self, job: Job, seconds: float) -> None:
        self.job, self.until = job, time.monotonic() + seconds
        self.rounds: list[int] = []
        self.accuracy: list[float] = []
        self.ended = "rounds"

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        if "accuracy" not in metrics:
            return
        self.rounds.append(round)
        self.accuracy.append(metrics["accuracy"])
        if sys.stderr.isatty():
            print(
                f"\r  {self.job.name}, seed {self.job.seed}: round {round}, {metrics['accuracy']:.3f} ", end="", file=sys.stderr
            )
        if self.job.target is not None and metrics["accuracy"] >= self.job.target:
            self.ended = "target"
        elif time.monotonic() > self.until and round < self.job.study.rounds:
            self.ended = "time"
        if self.ended != "rounds":
            raise _EnoughError


def carry_out(jobs: Sequence[Job], seconds: float, workers: int) -> list[Cell]:
    """Run cells one after another, each within its share of the time that is left, and print a line about each."""
    deadline, cells = time.monotonic() + seconds, []
    for index, job in enumerate(jobs):
        share = job.weight / sum(other.weight for other in jobs[index:])
        cell = _carry_out(job, max(deadline - time.monotonic(), 1.0) * share, workers)
        cells.append(cell)
        last = f"{cell.accuracy[-1]:.3f} after {cell.rounds[-1]} rounds" if cell.rounds else "no look"
        line = f"  [{index + 1}/{len(jobs)}] {cell.name}, seed {cell.seed}: {last}, {cell.seconds:.0f} s ({cell.ended})"
        print(("\r" if sys.stderr.isatty() else "") + f"{line:<110}", flush=True)
    return cells


def _carry_out(job: Job, seconds: float, workers: int) -> Cell:
    data, began = job.data(), time.monotonic()
    watch = _Watch(job, seconds)
    try:
        mn.simulate(
            job.study,
            data,
            seed=job.seed,
            workers=workers,
            conditions=job.conditions,
            evaluate_every=job.every,
            metrics=("accuracy",),
            watcher=watch,
        )
    except _EnoughError:
        pass
    except mn.ClientFailed:
        watch.ended = "diverged"
    return Cell(job.name, job.seed, watch.rounds, watch.accuracy, time.monotonic() - began, watch.ended)


def central_test(data: mn.Federation, rows: int | None = None) -> mn.Federation:
    """The clients' test parts as one test set that the server holds (some random rows of it): each row counts the same."""
    test = data.pooled("test")
    if rows is not None and rows < len(test):
        test = test[np.sort(np.random.default_rng(0).choice(len(test), rows, replace=False))]
    return replace(data, clients=tuple(replace(client, test=None) for client in data.clients), test=test)


def by_name(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Cells that differ only in the seed, together."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.name, []).append(cell)
    return found


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over seeds; 0 for one seed."""
    known = [value for value in values if isfinite(value)]
    if not known:
        return float("nan"), 0.0
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else 0.0


@dataclass(frozen=True)
class Needed:
    """Rounds to a target over seeds: mean and sd of those that reached it, their number, and the fewest that others ran."""

    mean: float
    sd: float
    reached: int
    seeds: int
    tried: int

    @property
    def complete(self) -> bool:
        return self.reached == self.seeds

    @property
    def minimum(self) -> float:
        """The mean, or a lower bound where a seed did not get there."""
        return self.mean if self.complete else float(self.tried)

    def __str__(self) -> str:
        if not self.complete:
            return f"> {self.tried}" + (f" ({self.reached} of {self.seeds} seeds: {self.mean:.0f})" if self.reached else "")
        return f"{self.mean:.0f} ± {self.sd:.0f}" if self.seeds > 1 else f"{self.mean:.0f}"


def needed(cells: Sequence[Cell], target: float) -> Needed:
    found = [cell.rounds_to(target) for cell in cells]
    reached = [rounds for rounds in found if rounds is not None]
    tried = [cell.rounds[-1] if cell.rounds else 0 for cell, rounds in zip(cells, found, strict=True) if rounds is None]
    mean, sd = spread(reached)
    return Needed(mean, sd, len(reached), len(cells), min(tried, default=0))


def last_common(groups: Mapping[str, Sequence[Cell]]) -> int:
    """The last round that every cell saw; so methods that ran out of time are compared with others at equal rounds."""
    return min(cell.rounds[-1] for cells in groups.values() for cell in cells if cell.rounds)


def tails(cells: Sequence[Cell], until: int) -> tuple[float, float]:
    """Mean and sd over seeds of the accuracy after so many rounds."""
    return spread([cell.tail(until) for cell in cells])


def percent(found: tuple[float, float]) -> str:
    return f"{100 * found[0]:.1f} ± {100 * found[1]:.1f}" if found[1] else f"{100 * found[0]:.1f}"


def points(found: tuple[float, float]) -> str:
    """A difference in points, with its sd where there are several seeds."""
    return f"{found[0]:+.1f} ± {found[1]:.1f}" if found[1] else f"{found[0]:+.1f}"


def quote(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# Drawing.


def tidy(axes: Any, title: str, across: str, up: str = "", grid: str = "y") -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=8)
    axes.set_xlabel(across, fontsize=9.5, color=QUIET)
    axes.set_ylabel(up, fontsize=9.5, color=QUIET)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    axes.grid(axis=grid, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def draw_curves(axes: Any, groups: Mapping[str, Sequence[Cell]], colours: Mapping[str, str]) -> None:
    """Mean over seeds by round, with a band of one standard deviation, each curve named at its end."""
    ends = []
    for name, cells in groups.items():
        rounds = sorted(set.intersection(*(set(cell.rounds) for cell in cells)))
        values = np.array([[cell.accuracy[cell.rounds.index(at)] for at in rounds] for cell in cells])
        mean = values.mean(axis=0)
        if len(cells) > 1:
            sd = values.std(axis=0, ddof=1)
            axes.fill_between(rounds, mean - sd, mean + sd, color=colours[name], alpha=0.13, linewidth=0)
        axes.plot(rounds, mean, color=colours[name], linewidth=1.8)
        ends.append((float(mean[-max(1, round(TAIL * len(mean))) :].mean()), rounds[-1], name))
    low, high = axes.get_ylim()
    places: list[float] = []
    for end, _, _ in sorted(ends):
        places.append(max(end, places[-1] + 0.06 * (high - low)) if places else end)
    top = len(places) - 1
    places = [min(place, high - 0.06 * (high - low) * (top - index)) for index, place in enumerate(places)]
    right = axes.get_xlim()[1]
    for (_, _, name), place in zip(sorted(ends), places, strict=True):
        axes.annotate(
            name, (right, place), color=colours[name], fontsize=9.5, fontweight="bold", va="center", annotation_clip=False
        )


def draw_rounds(axes: Any, rows: Sequence[tuple[str, Needed | None, float | None, bool]], colours: Sequence[str]) -> None:
    """Rounds to a target, one line for each cell: ours a dot with its sd (an arrow if not reached), the published one a diamond.

    Args:
        rows: label, ours, published, and whether the published figure is a lower bound ("1k+").
    """
    for place, ((_, ours, published, beyond), colour) in enumerate(zip(rows, colours, strict=True)):
        y = len(rows) - 1 - place
        if ours is not None and published is not None and ours.minimum > 0:
            axes.plot([ours.minimum, published], [y, y], color=FAINT, linewidth=3, zorder=1)
        if published is not None:
            axes.plot(published, y, marker=">" if beyond else "D", markersize=7, color=colour, fillstyle="none", zorder=2)
        if ours is None or ours.minimum <= 0:
            continue
        if ours.complete:
            axes.errorbar(ours.mean, y, xerr=ours.sd or None, marker="o", markersize=7, color=colour, capsize=3, zorder=3)
        else:
            axes.plot(ours.tried, y, marker=">", markersize=9, color=colour, zorder=3)
    axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")


def save(paper: Paper, cells: Sequence[Cell], path: Path) -> None:
    """Draw a paper's figure. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise mn.MissingExtra("matplotlib", "plots", "Drawing") from None
    figure = Figure(figsize=paper.figure_size, layout="constrained", facecolor="white")
    paper.draw(cells, figure)
    figure.suptitle(paper.title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.savefig(path, dpi=130)
