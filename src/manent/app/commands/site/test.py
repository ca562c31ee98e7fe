"""`manent site test`: a dry run on the site's own data."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from manent.app.commands.options import AsJson
from manent.app.commands.site.options import HERE, Chosen, Data, Folder
from manent.app.terminal import escaped

if TYPE_CHECKING:
    from manent.network.site.telling import Trial


def try_out(study: Chosen, data: Data, folder: Folder = HERE, as_json: AsJson = False) -> None:
    """A dry run on this site's data: do they fit, how long does it take, what would be sent? Nothing leaves the machine."""
    from manent.app.study.loader import loader
    from manent.network.site import telling
    from manent.network.site.state import POLICY, SiteState
    from manent.network.site.training import Children, taking_part
    from manent.network.trust.policy import Policy
    from manent.rounds.declared import schema_of

    state = SiteState(folder)
    known = telling.find(state, study)
    policy, plan, bundle = Policy.load(folder / POLICY), telling.own_plan(state, known), state.bundle(known.hash)
    loaded = loader(data, policy.data)(bundle.data)
    client = taking_part(loaded, schema_of(bundle.schema))
    children = Children(policy, folder)
    try:
        found = telling.trial(plan, children.trainer(bundle, plan, client), loaded, client, known.seed)
    finally:
        children.close()
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        _tell(found)


def _tell(found: Trial) -> None:
    """Print what a dry run found."""
    typer.echo(f"{found.client}: {found.rows} rows to train on, {found.test_rows} to test on; they are what the schema says.")
    if found.dropped:
        typer.echo(f"  {found.dropped} rows that lack a value stay out of it.")
    if found.columns:
        typer.echo(f"  Columns that take part: {', '.join(dict.fromkeys(map(escaped, found.columns)))}")
    for name, sent in found.sent.items():
        blocks = ", ".join(f"{block} ({size:,} numbers)" for block, size in sent["blocks"].items())
        took = f"{found.seconds[name]:.2f} s to compute"
        typer.echo(f"  {name}: in {sent['rounds']} rounds, {took}; would send {blocks}, {sent['bytes']:,} bytes each time")
    typer.echo(f"  Under: {found.guarantee}")
