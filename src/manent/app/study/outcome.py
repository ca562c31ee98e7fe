"""The outcome of a run: a short table and a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from manent.core.examples import Column
from manent.core.protocols import AlgorithmTraits, traits
from manent.data.federation import Federation
from manent.engines.plots import size
from manent.engines.run import Run
from manent.privacy.statement import Statement


def outcome(run: Run, data: Federation) -> RenderableType:
    """The result of a run, what it cost, and who saw what, for rich to print.

    Args:
        data: what it ran on; the columns' names and units come from its schema.
    """
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in _facts(run):
        table.add_row(name, value)
    if run.folder is not None:
        table.add_row("folder", Text(str(run.folder), style="cyan", overflow="fold"))
    answer = [] if run.probe or "model" in run.state else [_answer(run, data)]
    return Group(*answer, table, Text(who_saw_what(run.statement)))


def who_saw_what(statement: Statement) -> str:
    """The statement in two sentences: what the server saw, and which privacy holds against whom."""
    server = next(observer for observer in statement.observers if observer.name == "server")
    guarded = [o for o in statement.observers if o.epsilon is not None]
    deployed = " if deployed" if statement.epsilon_is == "if deployed" else ""
    privacy = (
        "; ".join(f"epsilon {o.epsilon:.3g}{deployed} (delta {o.delta:g}) against the {o.name}" for o in guarded)
        if guarded
        else "no differential privacy"
    )
    return f"Who saw what: the server saw {server.sees} ({statement.summation}; {privacy}). The rows stayed with their clients."


def _facts(run: Run) -> list[tuple[str, str]]:
    """The rows of the table: a name and a text each."""
    rounds = len({row["round"] for row in run.history})
    facts = [("rounds", f"{rounds}" if rounds == run.study.rounds else f"{rounds} of {run.study.rounds}")]
    last = run.probe[-1] if run.probe else {}
    if last.get("test"):
        facts.append(("central test set", _metrics(last["test"])))
    for name, spread in last.get("clients", {}).items():
        if spread and name in list(last["clients"])[:3]:
            facts.append((f"clients' {name}", f"mean {spread['mean']:.4g}, sd {spread['sd']:.4g}, {_range(name, last, spread)}"))
    lost = sum(row["cohort"] - row["answers"] for row in run.history)
    abandoned = sum("abandoned" in row for row in run.history)
    if lost:
        facts.append(
            ("dropped out", f"{lost} of {sum(row['cohort'] for row in run.history)} answers; {abandoned} sums abandoned")
        )
    up, down = (sum(row[f"bytes_{way}"] for row in run.history) for way in ("up", "down"))
    facts.append(("sent", f"{size(up)} up, {size(down)} down (all clients together)"))
    facts.append(("seconds", f"{run.seconds:.1f}"))
    return facts


def _metrics(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _range(name: str, row: Mapping[str, Any], spread: Mapping[str, float]) -> str:
    """The least and the most of a metric over the clients, and whose they are if the clients are named."""
    own = {client: metrics[name] for client, metrics in row.get("client", {}).items() if name in metrics}
    if not own:
        return f"from {spread['min']:.4g} to {spread['max']:.4g}"
    low, high = min(own, key=lambda c: own[c]), max(own, key=lambda c: own[c])
    return f"from {own[low]:.4g} ({low}) to {own[high]:.4g} ({high})"


def _answer(run: Run, data: Federation) -> RenderableType:
    """The answer to a query: a histogram as bars, anything else as names and values."""
    result = run.result
    column = _column(run, data)
    if "counts" in result:
        return _bars(np.asarray(result["counts"]), _bins(result, column), column)
    text = Text()
    for name, value in result.items():
        unit = f" {column.unit}" if column and name != "count" and column.unit else ""
        text.append(f"{name} {_number(value)}{unit}\n", style="bold")
    return text


def _column(run: Run, data: Federation) -> Column | None:
    """The column that a query asks about, or None."""
    name = traits(run.study.algorithm, AlgorithmTraits).column
    return None if name is None else data.schema.column(name)


def _number(value: Any) -> str:
    """A number, or an array of them, short enough to read."""
    array = np.asarray(value)
    return f"{float(array):,.5g}" if array.ndim == 0 else np.array2string(array, precision=4, threshold=12)


def _bins(result: Mapping[str, Any], column: Column | None) -> list[str]:
    """The names of a histogram's bins: of its codes, or the edges of each."""
    if "codes" in result:
        codes = column.codes if column else {}
        return [codes.get(int(code), f"{code:g}") for code in result["codes"]]
    edges = result["edges"]
    return [f"{low:g} to {high:g}" for low, high in pairwise(edges)]


def _bars(counts: Sequence[float] | Any, names: Sequence[str], column: Column | None) -> Table:
    """A table with a bar and a count for each bin."""
    title = f"{column.name}{f' ({column.unit})' if column.unit else ''}" if column else ""
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    most = max(float(np.max(counts)), 1.0)
    for name, count in zip(names, counts, strict=True):
        table.add_row(name, Text("█" * round(40 * float(count) / most), style="blue"), f"{count:,.0f}")
    return table
