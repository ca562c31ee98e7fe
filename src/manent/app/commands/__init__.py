"""The commands of `manent`, one file each."""

from __future__ import annotations

import typer

from manent.app.commands import check, join, plot, run, serve, storm
from manent.app.commands.audit_log import audit_app
from manent.app.commands.data import data_app
from manent.app.commands.demo import demo_app
from manent.app.commands.people import people_app
from manent.app.commands.privacy import budget, epsilon, noise
from manent.app.commands.receipts import receipts_app
from manent.app.commands.roster import roster_app
from manent.app.commands.site import site_app
from manent.app.commands.studies import studies_app


def add_to(app: typer.Typer) -> None:
    """Register every command, in the order in which help shows them."""
    for command in (
        run.run, check.check, plot.plot, join.join, epsilon.epsilon, noise.noise, budget.budget, serve.serve, storm.storm,
    ):  # fmt: skip
        app.command()(command)
    for name, family in {
        "data": data_app,
        "demo": demo_app,
        "audit-log": audit_app,
        "people": people_app,
        "receipts": receipts_app,
        "roster": roster_app,
        "site": site_app,
        "studies": studies_app,
    }.items():
        app.add_typer(family, name=name)
