"""Commands about differential privacy: what noise gives, what a budget needs, and what data sets have left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manent.core.canonical import to_plain
from manent.core.errors import InvalidInput

if TYPE_CHECKING:
    from manent.accounting import Budget, Event, Ledger

Delta = Annotated[float, typer.Option(help="Below one over the number of units that are protected.")]
Rounds = Annotated[int, typer.Option(min=1, help="How many sums are released.")]
Probability = Annotated[
    float | None,
    typer.Option(help="Each unit takes part independently with this probability (Poisson), in secret. (default: all do)"),
]
Relation = Annotated[
    str, typer.Option("--relation", metavar="RELATION", help="What may differ: add_or_remove, replace_one or zero_out.")
]
Accountant = Annotated[str, typer.Option(help="auto, pld, rdp, zcdp or analytic.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print it for programs.")]
COARSE = 1e-3
"""Interval of the PLDs along a curve: quick, and no further up than a line is wide."""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (epsilon, noise, budget):
        app.command()(command)


def epsilon(
    noise_multiplier: Annotated[float, typer.Option(help="Deviation of the noise over the most that one unit changes.")],
    rounds: Rounds,
    delta: Delta,
    sampling_probability: Probability = None,
    relation: Relation = "add_or_remove",
    accountant: Accountant = "auto",
    plot: Annotated[Path | None, typer.Option(help="Draw epsilon against the noise into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """The epsilon of so many Gaussian releases, who computed it, and what it takes for granted.

    [dim]manent epsilon --noise-multiplier 1.0 --sampling-probability 0.01 --rounds 10000 --delta 1e-5[/]
    """
    from manent.accounting import epsilon as computed

    options: tuple[Any, ...] = (delta, relation, accountant)
    found = computed(_event(noise_multiplier, rounds, sampling_probability), *options)
    if as_json:
        typer.echo(json.dumps({"noise_multiplier": noise_multiplier, "rounds": rounds, **found.to_plain()}))
    else:
        typer.echo(f"noise multiplier {noise_multiplier:g}, {_counted(rounds)}\n{found}")
    if plot is not None:
        _draw(plot, noise_multiplier, rounds, sampling_probability, options)
        typer.echo(f"Drawn into {plot}", err=as_json)


def noise(
    epsilon: Annotated[float, typer.Option(help="At most this much.")],
    rounds: Rounds,
    delta: Delta,
    sampling_probability: Probability = None,
    relation: Relation = "add_or_remove",
    accountant: Accountant = "auto",
    as_json: AsJson = False,
) -> None:
    """The least noise that keeps so many Gaussian releases within an epsilon.

    [dim]manent noise --epsilon 1 --sampling-probability 0.01 --rounds 10000 --delta 1e-5[/]
    """
    from manent.accounting import calibrate
    from manent.accounting import epsilon as computed

    options: tuple[Any, ...] = (relation, accountant)
    z = calibrate(epsilon, delta, lambda z: _event(z, rounds, sampling_probability), *options)
    found = computed(_event(z, rounds, sampling_probability), delta, *options)
    if as_json:
        typer.echo(json.dumps({"noise_multiplier": z, "rounds": rounds, **found.to_plain()}))
    else:
        typer.echo(f"noise multiplier {z:.5g}, {_counted(rounds)}\n{found}")


def budget(
    ledger: Annotated[str, typer.Argument(metavar="LEDGER", help="The ledger's SQLite file, or the URL of its database.")],
    study: Annotated[Path | None, typer.Option(metavar="STUDY.py", help="Also tell what this study would cost.")] = None,
    give: Annotated[
        str | None, typer.Option("--open", metavar="DATA_SET", help="Give a data set its budget, once; a new file is created.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="With --open.")] = None,
    delta: Annotated[float | None, typer.Option(help="With --open.")] = None,
    unit: Annotated[str, typer.Option(help="With --open: client or example.")] = "client",
    relation: Relation = "add_or_remove",
    as_json: AsJson = False,
) -> None:
    """What each data set has spent of its budget, what is reserved, and what is left.

    [dim]manent budget ledger.db --open hospitals --epsilon 8 --delta 1e-6
    manent budget ledger.db --study my_study.py[/]
    """
    from manent.accounting import Budget, Ledger
    from manent.storage import is_url, open_store

    if give is None and not is_url(ledger) and not Path(ledger).is_file():
        raise InvalidInput(f"There is no ledger at {ledger}; create one with --open DATA_SET --epsilon E --delta D.")
    book = Ledger(open_store(ledger))
    if give is not None:
        if epsilon is None or delta is None:
            raise InvalidInput("--open needs --epsilon and --delta: the budget of the data set.")
        options: Any = {"privacy_unit": unit, "neighboring_relation": relation}
        book.open(give, Budget(epsilon, delta, **options))
    planned = None if study is None else _planned(book, study)
    rows = [
        {"data_set": a.data_set, "spent": a.spent, "reserved": a.reserved, "left": a.left, "runs": a.runs, **_limits(a.budget)}
        for a in book.summary()
    ]
    if as_json:
        typer.echo(json.dumps(to_plain({"data_sets": rows, "planned": planned})))
        return
    _show(rows)
    if planned is not None:
        verdict = "it fits" if planned["fits"] else "it does NOT fit"
        typer.echo(f"{study} would take {planned['data_set']} from {planned['before']:.4g} to {planned['after']:.4g}: {verdict}.")


def _event(noise_multiplier: float, rounds: int, sampling_probability: float | None) -> Event:
    from manent.accounting import training

    return training(noise_multiplier, rounds, sampling_probability)


def _counted(rounds: int) -> str:
    return f"{rounds:,} round{'s' * (rounds > 1)}"


def _limits(budget: Budget) -> dict[str, Any]:
    values = budget.to_plain()
    return {"budget": values.pop("epsilon"), **values}


def _planned(ledger: Ledger, path: Path) -> dict[str, Any]:
    """What a study would cost the data set that it runs on."""
    from manent.app.studyfile import load_study
    from manent.engines.spending import data_set_name
    from manent.privacy.check import resolve

    declared = load_study(path, ())
    plan = resolve(declared.study, declared.data)
    if plan.privacy is None:
        raise InvalidInput(f"{path} declares no noise, so it has no epsilon. Give it layers and a budget.")
    cost = ledger.cost(
        data_set_name(declared.data.name),
        plan.privacy.event,
        privacy_unit=plan.privacy.unit,
        neighboring_relation=plan.privacy.relation,
    )
    return {"data_set": cost.data_set, "before": cost.before, "after": cost.after, "fits": cost.fits}


def _show(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="Numbers are epsilon.", caption_justify="left")
    table.add_column("data set", overflow="fold")
    for name in ("budget", "spent", "reserved", "left", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("for")
    for row in rows:
        numbers = (f"{row[name]:.4g}" for name in ("budget", "spent", "reserved", "left"))
        protected = f"each {row['privacy_unit']}, {row['neighboring_relation']}, delta {row['delta']:g}"
        table.add_row(row["data_set"], *numbers, str(row["runs"]), protected)
    Console(highlight=False).print(table)


def _draw(path: Path, z: float, rounds: int, sampling_probability: float | None, options: tuple[Any, ...]) -> None:
    """epsilon against the noise multiplier, from a third of this one to three times it, by the same accountant.

    Args:
        options: delta, relation and accountant.
    """
    import numpy as np

    from manent.accounting import epsilon as computed
    from manent.core.errors import MissingExtra
    from manent.engines.plots import INK, PALETTE, save

    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
    except ImportError:
        raise MissingExtra("matplotlib", "plots", "Drawing epsilon") from None
    delta, relation, _ = options
    multipliers = z * np.geomspace(1 / 3, 3, 25)
    curve = [computed(_event(m, rounds, sampling_probability), *options, interval=COARSE).epsilon for m in multipliers]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(multipliers, curve, color=PALETTE[0])
    axes.plot(z, curve[12], "o", color=PALETTE[1])
    found = computed(_event(z, rounds, sampling_probability), *options).epsilon
    axes.annotate(f"epsilon {found:.3g}", (z, curve[12]), (8, 8), textcoords="offset points", color=INK)
    sampled = "" if sampling_probability is None else f"; a unit takes part in each with probability {sampling_probability:g}"
    axes.set_title(f"{_counted(rounds)}{sampled}\ndelta {delta:g}, {relation}", fontsize=9, loc="left")
    axes.set_xlabel("noise multiplier")
    axes.set_ylabel("epsilon")
    axes.set_xscale("log")
    if min(curve) > 0:
        axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis) if min(curve) > 0 else (axes.xaxis,):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    save(figure, path)
