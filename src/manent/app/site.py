"""Commands of a site: its identity and rules, what it is asked, what it has spent."""

from __future__ import annotations

import getpass
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manent.app.join import loader, stands
from manent.core.errors import InvalidInput

if TYPE_CHECKING:
    from manent.network.site.spending import Account
    from manent.network.site.state import SiteState
    from manent.network.site.telling import Trial

site_app = typer.Typer(
    no_args_is_help=True,
    help="A site of a federation: its identity, its rules, what it is asked to do.\n\n"
    "[dim]manent site init karolinska\n"
    "manent site join manent-join-1.AbC...\n"
    "manent site run --data load.py:load\n"
    "manent site status                    (which studies ask for something)\n"
    "manent site test 4f6a --data load.py:load\n"
    "manent site review 4f6a --approve[/]",
)
Folder = Annotated[Path, typer.Option(help="Where the site keeps its key, rules and state.")]
Data = Annotated[
    str,
    typer.Option(
        metavar="FILE.py:NAME",
        help="A function of yours that returns this site's data; given the data set's name if it takes one.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it for programs.")]
Chosen = Annotated[str, typer.Argument(metavar="STUDY", help="The first digits of its hash; see `manent site status`.")]
HERE = Path("site")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(site_app, name="site")


@site_app.command()
def init(name: Annotated[str, typer.Argument(help="Of the site, as others will read it.")], folder: Folder = HERE) -> None:
    """Make a site's key, and a careful policy to edit.

    [dim]manent site init karolinska --folder /srv/manent[/]
    """
    from manent.network.site.state import POLICY, SiteState
    from manent.network.trust.identity import create_file
    from manent.network.trust.policy import Policy

    state = SiteState.create(folder, name)
    create_file(folder / POLICY, Policy.example().encode())
    typer.echo(
        f"Site {name} in {folder}. Edit {folder / POLICY}: as it stands, it allows nobody's studies.\n"
        f"Its public key, for the consortium's roster:\n{state.identity.public_hex}"
    )


@site_app.command()
def join(
    token: Annotated[str, typer.Argument(metavar="INVITATION", help="The line that the server's operator gave.")],
    folder: Folder = HERE,
) -> None:
    """Join the server that an invitation names."""
    from manent.network.site.joining import join_patiently
    from manent.network.trust.join import JoinToken

    state = _open(folder)
    typer.echo(stands(state, join_patiently(state, JoinToken.decode(token))))


@site_app.command()
def run(data: Data, folder: Folder = HERE) -> None:
    """Work for the federation, until interrupted.

    [dim]manent site run --data load.py:load[/]
    """
    from manent.app.logs import log_json
    from manent.network.site.agent import Agent
    from manent.network.site.state import POLICY
    from manent.network.trust.policy import Policy

    log_json()
    policy = Policy.load(folder / POLICY)
    Agent(_open(folder), policy, loader(data, policy.data)).run()


@site_app.command()
def status(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """How the site stands: its server, studies with their decisions, sums under way, budgets."""
    from manent.network.site import telling

    state = _open(folder)
    found = telling.status(state, _account(state))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    typer.echo(f"Site {found['name']} ({found['public']})\nServer: {found['server'] or 'none yet; see manent site join'}")
    if found["server"]:
        typer.echo(f"Roster: {_roster(found)}")
    for study in found["studies"]:
        over = ", over" if study["over"] else ""
        typer.echo(f"  {study['hash'][:12]}  {_shown(study['name'] or '-'):20} {study['decision']}, round {study['round']}{over}")
        if study["reason"]:
            typer.echo(f"      {study['reason']}")
    for task in found["sums"]:
        typer.echo(f"  under way: {task['study'][:12]} round {task['round']}, {task['sum']}")
    _budgets(found["budgets"])


@site_app.command()
def budget(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """What each data set has spent of its budget, what is set aside, and what is left."""
    from manent.network.site import telling

    state = _open(folder)
    found = telling.status(state, _account(state))["budgets"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif found:
        _budgets(found)
    else:
        typer.echo("The policy gives no data set a budget.")


@site_app.command()
def review(
    study: Chosen,
    folder: Folder = HERE,
    approve: Annotated[bool, typer.Option("--approve", help="Approve exactly this bundle, after reading it.")] = False,
    note: Annotated[str, typer.Option(help="Kept beside the approval.")] = "",
) -> None:
    """Show what a study would see and run, and what changed since the last approved version; then perhaps approve it."""
    from manent.network.site import telling
    from manent.network.site.state import APPROVALS
    from manent.network.trust.policy import approve as write

    state = _open(folder)
    known = telling.find(state, study)
    typer.echo(telling.review(state, known))
    if approve:
        day = time.strftime("%Y-%m-%d %H:%M")
        write(folder / APPROVALS, known.bundle, " ".join((getpass.getuser(), day, note)).strip())
        typer.echo(f"\nApproved: {known.bundle}")


@site_app.command()
def leave(study: Chosen, folder: Folder = HERE) -> None:
    """Take part in no further sum of a study. What was released stays released; the other sites go on where they are enough."""
    from manent.network.site import telling

    state = _open(folder)
    known = state.leave(telling.find(state, study).hash)
    typer.echo(f"Left study {known.hash[:12]} after round {known.round}; the server is told when the site runs.")


@site_app.command("test")
def try_out(study: Chosen, data: Data, folder: Folder = HERE, as_json: AsJson = False) -> None:
    """A dry run on this site's data: do they fit, how long does it take, what would be sent? Nothing leaves the machine."""
    from manent.network.site import telling
    from manent.network.site.state import POLICY
    from manent.network.site.training import Children, taking_part
    from manent.network.trust.policy import Policy
    from manent.rounds.declared import schema_of

    state = _open(folder)
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
        _tell_trial(found)


def _tell_trial(found: Trial) -> None:
    typer.echo(f"{found.client}: {found.rows} rows to train on, {found.test_rows} to test on; they are what the schema says.")
    if found.dropped:
        typer.echo(f"  {found.dropped} rows that lack a value stay out of it.")
    if found.columns:
        typer.echo(f"  Columns that take part: {', '.join(dict.fromkeys(map(_shown, found.columns)))}")
    for name, sent in found.sent.items():
        blocks = ", ".join(f"{block} ({size:,} numbers)" for block, size in sent["blocks"].items())
        took = f"{found.seconds[name]:.2f} s to compute"
        typer.echo(f"  {name}: in {sent['rounds']} rounds, {took}; would send {blocks}, {sent['bytes']:,} bytes each time")
    typer.echo(f"  Under: {found.guarantee}")


def _shown(text: str) -> str:
    """Text that a stranger chose: what could change a terminal becomes escapes."""
    return json.dumps(text)[1:-1]


def _roster(found: dict[str, Any]) -> str:
    by = "the server itself (a quick start)" if found["quick_start"] else f"the consortium {found['signer'][:16]}..."
    if not found["roster"]:
        return f"none seen yet; it is to be signed by {by}"
    until = time.strftime("%Y-%m-%d", time.gmtime(found["roster_expires"]))
    return f"{found['roster']}, signed by {by}, until {until}; this site is {'' if found['member'] else 'NOT '}on it"


def _open(folder: Path) -> SiteState:
    from manent.network.site.state import SiteState

    return SiteState(folder)


def _account(state: SiteState) -> Account:
    from manent.network.site.spending import Account
    from manent.network.site.state import POLICY
    from manent.network.trust.policy import Policy

    if not (state.folder / POLICY).exists():
        raise InvalidInput(f"{state.folder} has no {POLICY}; begin a site with: manent site init")
    return Account(state, Policy.load(state.folder / POLICY))


def _budgets(found: list[dict[str, float]]) -> None:
    for one in found:
        typer.echo(
            f"  budget of {one['data']}: epsilon {one['epsilon']:g}, spent {one['spent']:.4g}, set aside {one['reserved']:.4g}, "
            f"left {one['left']:.4g}"
        )
