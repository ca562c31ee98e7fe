"""The drawing of a federation: the clients' sizes on the left, their targets on the right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from manent.core.errors import MissingExtra
from manent.core.vectors import Array
from manent.data.facts import Facts, Labels, Numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = 24
"""Up to so many clients get a bar each. More are drawn as curves, histograms or a map."""
INK, QUIET, TRAIN, TEST, ACCENT = "#22313f", "#8a97a3", "#2a6f97", "#a9cfe3", "#d1495b"
PALETTE = ("#2a6f97", "#e9a03b", "#5aa469", "#d1495b", "#7d6bb3", "#3fb5a3", "#b5793f", "#e58fb2", "#8a97a3", "#c2c04a")
PAIR = ("#cfdde6", "#d1495b")


def draw(facts: Facts, path: str | None = None) -> Figure:
    """Draws the facts, and saves the figure where a path is given. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise MissingExtra("matplotlib", "plots", "Drawing") from None
    listed = len(facts.clients) <= BARS
    height = max(3.6, 1.9 + 0.36 * len(facts.clients)) if listed else 5.2
    figure = Figure(figsize=(11, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1), facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6) if listed else (1, 1.35))
    for axes in (left, right):
        _tidy(axes)
    if listed:
        _size_bars(left, facts)
        _target_bars(right, facts)
    else:
        _size_curve(left, facts)
        _crowd(right, facts)
    train, test, count = int(facts.train.sum()), int(facts.test.sum()), len(facts.clients)
    title = f"{facts.name}: {count:,} clients, {train + test:,} rows"
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold", color=INK)
    measure = "mean distance to the pooled labels" if isinstance(facts.target, Labels) else "variance that lies between clients"
    figure.supxlabel(
        f"Heterogeneity {facts.heterogeneity:.2f} ({measure}, 0 to 1); {facts.by_chance:.2f} if the rows were dealt at random.",
        x=0.01,
        ha="left",
        fontsize=9.5,
        color=QUIET,
    )
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _tidy(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    axes.xaxis.label.set_color(QUIET)
    axes.yaxis.label.set_color(QUIET)


def _heading(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=11, pad=10, color=INK)


def _rows(axes: Any, clients: int, names: tuple[str, ...] | None) -> Array:
    """Where the clients' bars lie, and below a gap the bar for all. Both panels share these places; the left has the names."""
    rows: Array = np.append(np.arange(clients), clients + 0.35)
    axes.set_yticks(rows, [""] * len(rows) if names is None else [*names, "all"])
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.set_ylim(rows[-1] + 0.6, -0.6)
    return rows


def _size_bars(axes: Any, facts: Facts) -> None:
    *rows, below = _rows(axes, len(facts.clients), facts.clients)
    axes.barh(rows, facts.train, color=TRAIN, height=0.66)
    axes.barh(rows, facts.test, left=facts.train, color=TEST, height=0.66)
    total = facts.train + facts.test
    for row, size in zip(rows, total, strict=True):
        axes.text(size + total.max() * 0.015, row, f"{size:,}", va="center", fontsize=9.5, color=INK)
    axes.text(0, below, f" {total.sum():,}", va="center", fontsize=9.5, fontweight="bold", color=INK)
    axes.set_xlim(0, total.max() * 1.14)
    _whole_ticks(axes.xaxis)
    _heading(axes, "Rows")
    if facts.test.any():
        _legend(axes, [("train", TRAIN), ("test", TEST)])


def _whole_ticks(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(4, integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _legend(axes: Any, entries: list[tuple[str, str]]) -> None:
    """Names in their colours above the axes, to the right of the heading."""
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in entries]
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=min(len(handles), 10),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=0.9,
        handletextpad=0.4,
        columnspacing=1.0,
        borderaxespad=0.2,
    )


def _target_bars(axes: Any, facts: Facts) -> None:
    target = facts.target
    if isinstance(target, Numbers):
        _means(axes, facts, target)
    elif len(target.names) <= 10:
        _share_bars(axes, facts, target)
    else:
        _heat(axes, target, facts.clients)


def _share_bars(axes: Any, facts: Facts, target: Labels) -> None:
    """Each client's shares of labels as one stacked bar; below a gap, the shares of all rows."""
    shares = np.vstack([target.shares, target.pooled])
    rows = _rows(axes, len(facts.clients), None)
    colours = PAIR if len(target.names) == 2 else PALETTE
    order = [1, 0] if len(target.names) == 2 else range(len(target.names))
    start = np.zeros(len(rows))
    for label in order:
        axes.barh(rows, shares[:, label], left=start, color=colours[label], height=0.66, edgecolor="white", linewidth=0.6)
        start += shares[:, label]
    if len(target.names) == 2:
        for row, share in zip(rows, shares[:, 1], strict=True):
            inside = share > 0.12
            axes.text(
                share - 0.01 if inside else share + 0.01,
                row,
                f"{share:.1%}",
                va="center",
                ha="right" if inside else "left",
                fontsize=9.5,
                color="white" if inside else INK,
            )
        axes.axvline(target.pooled[1], color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(_percent())
    binary = len(target.names) == 2
    _heading(axes, "Base rate" if binary else "Labels")
    _legend(axes, [(target.names[label], colours[label]) for label in order] if binary or _fits(target.names) else [])
    if not binary and not _fits(target.names):
        _legend_below(axes, target.names, colours)


def _fits(names: tuple[str, ...]) -> bool:
    return sum(len(name) + 3 for name in names) < 60


def _legend_below(axes: Any, names: tuple[str, ...], colours: tuple[str, ...]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in zip(names, colours, strict=False)]
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, -0.08),
        ncols=5,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=0.9,
    )


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0)


def _means(axes: Any, facts: Facts, target: Numbers) -> None:
    *rows, below = _rows(axes, len(facts.clients), None)
    axes.hlines(rows, target.mean - target.sd, target.mean + target.sd, color=TEST, linewidth=6)
    axes.plot(target.mean, rows, "o", color=TRAIN, markersize=8)
    axes.axvline(target.pooled_mean, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.text(target.pooled_mean, below, f"  {target.pooled_mean:.4g}", va="center", fontsize=9.5, fontweight="bold", color=INK)
    axes.set_xlabel(target.unit)
    _heading(axes, "Target: mean, and one standard deviation either way")


def _size_curve(axes: Any, facts: Facts) -> None:
    total = np.sort(facts.train + facts.test)[::-1]
    place = np.arange(1, len(total) + 1)
    axes.fill_between(place, total, color=TEST, alpha=0.6, linewidth=0)
    axes.plot(place, total, color=TRAIN, linewidth=1.8)
    middle = float(np.median(total))
    axes.axhline(middle, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.text(len(total), middle, f" median {middle:,.0f}", ha="right", va="bottom", fontsize=9.5, color=INK)
    axes.set_xlim(1, len(total))
    if total[0] > 20 * max(middle, 1):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, total[0] * 1.08)
        _whole_ticks(axes.yaxis)
    axes.set_xlabel("clients, largest first")
    _heading(axes, "Rows of each client")


def _crowd(axes: Any, facts: Facts) -> None:
    target = facts.target
    if isinstance(target, Numbers):
        axes.hist(target.mean, bins=40, color=TRAIN)
        axes.axvline(target.pooled_mean, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_xlabel(target.unit)
        _heading(axes, "Clients by mean of the target; dashed: all rows")
    elif len(target.names) == 2:
        axes.hist(target.shares[:, 1], bins=np.linspace(0, 1, 41), color=PAIR[1])
        axes.axvline(target.pooled[1], color=INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.xaxis.set_major_formatter(_percent())
        axes.set_xlim(0, 1)
        axes.set_ylabel("clients")
        _heading(axes, f"Clients by base rate of {target.names[1]}; dashed: all rows")
    else:
        _heat(axes, target, None)


def _heat(axes: Any, target: Labels, names: tuple[str, ...] | None) -> None:
    """The shares of labels as a map with a row for each class. Many clients are sorted by their commonest class."""
    shares = target.shares
    kept = np.flatnonzero(target.counts.sum(axis=0))
    if len(kept) > 30:
        kept = np.sort(np.argsort(-target.pooled, kind="stable")[:30])
    if names is None:
        shares = shares[_alike_together(shares)]
    picture = axes.imshow(shares[:, kept].T, aspect="auto", cmap="GnBu", vmin=0, interpolation="nearest")
    axes.set_yticks(range(len(kept)), [_visible(target.names[label]) for label in kept], fontsize=9.5 if len(kept) <= 16 else 7)
    if names is None:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(shares):,} clients, those alike side by side")
    else:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    bar = axes.figure.colorbar(picture, ax=axes, fraction=0.03, pad=0.02)
    bar.ax.yaxis.set_major_formatter(_percent())
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, length=0, labelsize=9)
    some = "Share of each label" if len(kept) == (target.counts.sum(axis=0) > 0).sum() else "Share of the 30 commonest labels"
    _heading(axes, some)


def _alike_together(shares: Array) -> Array:
    """An order of the clients: by their commonest label, then by the second, then by how common the first one is."""
    first, second = np.argsort(-shares, axis=1, kind="stable")[:, :2].T
    return np.lexsort((-shares[np.arange(len(shares)), first], second, first))


def _visible(name: str) -> str:
    return {"\n": "line end", " ": "space"}.get(name, name)
