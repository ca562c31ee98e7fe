"""`manent budget`: what data sets have left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manent.app.commands.options import AsJson
from manent.app.commands.privacy.options import Relation
from manent.app.commands.privacy.unsettled import Released, Settle, tell, unsettled
from manent.app.commands.privacy.unsettled import settle as by_hand
from manent.core.canonical import to_plain
from manent.core.errors import InvalidInput

if TYPE_CHECKING:
    from manent.accounting import Account, Ledger

Against = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OBSERVER",
        help="With --open: against whom it holds: server, clients, public, colluders or 'server and colluders'; "
        "may be repeated. "
        "(default: clients, the public, and whom else a study's noise is to protect from)",
    ),
]
Rate = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="EPSILON DAYS", help="With --open: also the most in any so many days; a rate within the budget."),
]


def budget(
    ledger: Annotated[str, typer.Argument(metavar="LEDGER", help="The ledger's SQLite file, or the URL of its database.")],
    study: Annotated[Path | None, typer.Option(metavar="STUDY.py", help="Also tell what this study would cost.")] = None,
    give: Annotated[
        str | None,
        typer.Option("--open", metavar="DATA_SET", help="Give a data set its budget, once. Makes the file if there is none."),
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="With --open.")] = None,
    delta: Annotated[float | None, typer.Option(help="With --open.")] = None,
    unit: Annotated[str, typer.Option(help="With --open: client or example.")] = "client",
    relation: Relation = "add_or_remove",
    period: Rate = None,
    against: Against = None,
    settle: Settle = None,
    released: Released = None,
    as_json: AsJson = False,
) -> None:
    """What each data set has spent of its budget, what is reserved, and what is left.

    [dim]manent budget ledger.db --open hospitals --epsilon 8 --delta 1e-6
    manent budget ledger.db --open clinic --epsilon 8 --delta 1e-6 --period 1 30
    manent budget ledger.db --study my_study.py
    manent budget ledger.db --settle 0123456789abcdef0123456789abcdef --released 3[/]
    """
    from manent.accounting import Ledger
    from manent.storage import is_url, open_store

    if give is None and not is_url(ledger) and not Path(ledger).is_file():
        raise InvalidInput(f"There is no ledger at {ledger}; create one with --open DATA_SET --epsilon E --delta D.")
    book = Ledger(open_store(ledger))
    options: Any = {"privacy_unit": unit, "neighboring_relation": relation, "against": tuple(against or ()) or None}
    _open(book, give, (epsilon, delta), options, period)
    by_hand(book, settle, released)
    planned = None if study is None else _planned(book, study)
    rows = [
        {"data_set": a.data_set, "spent": a.spent, "reserved": a.reserved, "left": a.left, "runs": a.runs, **_limits(a)}
        for a in book.summary()
    ]
    if as_json:
        typer.echo(json.dumps(to_plain({"data_sets": rows, "planned": planned, "unsettled": unsettled(book)})))
        return
    _print(rows)
    tell(unsettled(book))
    if planned is not None:
        verdict = "it fits" if planned["fits"] else f"it does NOT fit. {planned['wait']}".strip(" .")
        typer.echo(f"{study} would take {planned['data_set']} from {planned['before']:.4g} to {planned['after']:.4g}: {verdict}.")


def _open(
    book: Ledger, name: str | None, most: tuple[float | None, float | None], options: Any, period: tuple[float, float] | None
) -> None:
    """Give a data set its budget, where one is named. Raises InvalidInput for what goes with a name alone."""
    from manent.accounting import Budget, Period

    epsilon, delta = most
    if name is None:
        for option, given in (("against", options["against"]), ("period", period)):
            if given:
                raise InvalidInput(f"--{option} goes with --open: a budget is not changed.")
        return
    if epsilon is None or delta is None:
        raise InvalidInput("--open needs --epsilon and --delta: the budget of the data set.")
    book.open(name, Budget(epsilon, delta, **options), None if period is None else Period(*period))


def _limits(account: Account) -> dict[str, Any]:
    """A budget's values, its epsilon under the name "budget", and its period where it has one."""
    values = account.budget.to_plain()
    rate = {} if account.period is None else {"period": {**account.period.to_plain(), "spent": account.lately}}
    return {"budget": values.pop("epsilon"), **values, **rate}


def _planned(ledger: Ledger, path: Path) -> dict[str, Any]:
    """What a study would cost the data set that it runs on. Raises InvalidInput for a study without noise."""
    from manent.app.study.file import load_study
    from manent.engines.spending import data_set_name
    from manent.privacy.check import resolve

    declared = load_study(path, ())
    plan = resolve(declared.study, declared.data)
    if plan.privacy is None:
        raise InvalidInput(f"{path} declares no noise, so it has no epsilon. Give it layers and a budget.")
    name = data_set_name(declared.data.name)
    cost = ledger.cost(
        name,
        plan.privacy.charged(ledger.account(name).budget.against),
        privacy_unit=plan.privacy.unit,
        neighboring_relation=plan.privacy.relation,
    )
    return {"data_set": cost.data_set, "before": cost.before, "after": cost.after, "fits": cost.fits, "wait": cost.wait}


def _print(rows: list[dict[str, Any]]) -> None:
    """Print a table with a row for each data set."""
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
        if "against" in row:
            protected += f", against {', '.join(row['against'])}"
        if "period" in row:
            rate = row["period"]
            protected += f"; {rate['spent']:.4g} of {rate['epsilon']:g} in the last {rate['days']:g} days"
        table.add_row(row["data_set"], *numbers, str(row["runs"]), protected)
    Console(highlight=False).print(table)
