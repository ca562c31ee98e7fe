"""`manent epsilon`: what so much noise gives."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manent.app.commands.options import AsJson
from manent.app.commands.privacy.options import Accountant, Delta, Probability, Relation, Rounds, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COARSE = 1e-3
"""Interval of the privacy loss distributions along the curve: quick, and no further up than a line is wide."""
POINTS = 25
"""Points of the curve; the middle one is the noise that was asked about."""


def epsilon(
    noise_multiplier: Annotated[
        float, typer.Option(help="Standard deviation of the noise, as a multiple of the most that one unit changes.")
    ],
    rounds: Rounds,
    delta: Delta,
    sampling_probability: Probability = None,
    relation: Relation = "add_or_remove",
    accountant: Accountant = "auto",
    plot: Annotated[Path | None, typer.Option(help="Draw epsilon against the noise into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """The epsilon of so many Gaussian releases, which accountant computed it, what it assumes, and what that means for an attack.

    [dim]manent epsilon --noise-multiplier 1.0 --sampling-probability 0.01 --rounds 10000 --delta 1e-5[/]
    """
    from manent.accounting import epsilon as computed
    from manent.accounting import training
    from manent.accounting.attacks import against

    options: tuple[Any, ...] = (delta, relation, accountant)
    event = training(noise_multiplier, rounds, sampling_probability)
    found, best = computed(event, *options), against(event, *options)
    if as_json:
        told = {"noise_multiplier": noise_multiplier, "rounds": rounds, **found.to_plain(), "attacks": [asdict(a) for a in best]}
        typer.echo(json.dumps(told))
    else:
        meaning = "\n".join(f"  an attack that is {attack}" for attack in best)
        typer.echo(f"noise multiplier {noise_multiplier:g}, {counted(rounds)}\n{found}\n{meaning}")
    if plot is not None:
        _draw(plot, noise_multiplier, rounds, sampling_probability, options)
        typer.echo(f"Drawn into {plot}", err=as_json)


def _draw(path: Path, noise_multiplier: float, rounds: int, sampling_probability: float | None, options: tuple[Any, ...]) -> None:
    """Draw epsilon against the noise multiplier, from a third of this one to three times it, by the same accountant.

    Args:
        options: delta, relation and accountant.
    """
    import numpy as np

    from manent.accounting import epsilon as computed
    from manent.accounting import training
    from manent.core.errors import MissingExtra
    from manent.engines.plots import INK, PALETTE, save

    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "plots", "Drawing epsilon") from None
    delta, relation, _ = options
    multipliers = noise_multiplier * np.geomspace(1 / 3, 3, POINTS)
    curve = [computed(training(m, rounds, sampling_probability), *options, interval=COARSE).epsilon for m in multipliers]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(multipliers, curve, color=PALETTE[0])
    at = noise_multiplier, curve[POINTS // 2]
    axes.plot(*at, "o", color=PALETTE[1])
    found = computed(training(noise_multiplier, rounds, sampling_probability), *options).epsilon
    axes.annotate(f"epsilon {found:.3g}", at, (8, 8), textcoords="offset points", color=INK)
    sampled = "" if sampling_probability is None else f"; a unit takes part in each with probability {sampling_probability:g}"
    axes.set_title(f"{counted(rounds)}{sampled}\ndelta {delta:g}, {relation}", fontsize=9, loc="left")
    _scale(axes, logarithmic=min(curve) > 0)
    save(figure, path)


def _scale(axes: Axes, logarithmic: bool) -> None:
    """Name and scale the axes; `logarithmic` says whether epsilon's is logarithmic too."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xlabel("noise multiplier")
    axes.set_ylabel("epsilon")
    axes.set_xscale("log")
    if logarithmic:
        axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis) if logarithmic else (axes.xaxis,):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
