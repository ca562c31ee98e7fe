"""`manent studies`: studies at a server, for the people who submit them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manent.app.studycode import code_of, pins
from manent.app.studyfile import StudyFile, load_study
from manent.core.errors import InvalidInput, ProtocolAbort

if TYPE_CHECKING:
    from manent.network.researcher import Researcher
    from manent.network.wire.bundle import Bundle

TOKEN = "MANENT_TOKEN"  # noqa: S105 - the name of a variable
studies_app = typer.Typer(
    no_args_is_help=True,
    help="Studies at a server: submit them, see how they stand, fetch what came of them.\n\n"
    "The server's operator gives you three things, which these commands read from the environment: MANENT_SERVER, its URL; "
    f"MANENT_PIN, of its certificate, where it made that itself; and {TOKEN}, yours, by manent people add.\n\n"
    "[dim]manent studies submit study.py --sites 4\n"
    "manent studies list\n"
    "manent studies result 6d8f7a -o model.safetensors[/]",
)
Server = Annotated[str, typer.Option(envvar="MANENT_SERVER", metavar="URL", help="Such as https://fl.example:8443.")]
Pin = Annotated[
    str | None, typer.Option(envvar="MANENT_PIN", metavar="HASH", help="Of its certificate. (default: an authority vouches)")
]
Which = Annotated[str, typer.Argument(metavar="STUDY", help="The first digits of its hash.")]
Json = Annotated[bool, typer.Option("--json", help="Print it for programs.")]
Code = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A file that the study's code needs and no import names; may be repeated."),
]
Requirements = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Packages that the code needs, name==version in each line.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(studies_app, name="studies")


@contextmanager
def _asking(server: str, pin: str | None) -> Iterator[Researcher]:
    from manent.network.researcher import Researcher

    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise InvalidInput(f"Set {TOKEN} to the token that the server's operator gave you (manent people add); it is not set.")
    found = Researcher(server.rstrip("/"), token, pin)
    try:
        yield found
    finally:
        found.close()


@studies_app.command()
def submit(
    study: Annotated[Path, typer.Argument(metavar="STUDY.py", help="Python that defines `study` and `data`.")],
    server: Server,
    pin: Pin = None,
    sites: Annotated[int | None, typer.Option(min=1, help="Wait for so many. (default: the study's clients)")] = None,
    key: Annotated[Path, typer.Option(help="Your signing key; made where there is none.")] = Path("researcher.key"),
    data_set: Annotated[str, typer.Option(help="The name under which sites know the data that the study asks for.")] = "data",
    code: Code = None,
    requirements: Requirements = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything repeatable.")] = 0,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting.")] = None,
) -> None:
    """Queue a study. The data of study.py stay here: only their schema travels, and code where the model is your own.

    It is signed by your key. Sites take part in studies of the keys that their policies name: send them yours, once.

    [dim]manent studies submit study.py
    manent studies submit study.py --sites 4 --set rounds=30[/]
    """
    from manent.network.trust.identity import Identity

    file = load_study(study, sets or ())
    bundle, needed = bundle_of(study, file, data_set, code or (), requirements), sites or len(file.data)
    own = Identity.load(key) if key.exists() else Identity.create(key, "researcher")
    with _asking(server, pin) as researcher:
        hash = researcher.submit(file.study, bundle, own.signing_key, needed, seed)
    typer.echo(f"Study {file.study.name or study.stem} ({hash[:16]}) waits for {needed} sites.")
    typer.echo(f"Signed by the key in {key}, for the [researchers] of sites' policies:\n{own.public_hex}")
    if bundle.code:
        typer.echo(f"With its code, which each site reads or lists first: {', '.join(bundle.code)}\ncode hash {bundle.code_hash}")


@studies_app.command("list")
def list_them(server: Server, pin: Pin = None, as_json: Json = False) -> None:
    """The studies that you may see."""
    with _asking(server, pin) as researcher:
        found = researcher.studies()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for one in found:
        typer.echo(_line(one))
    if not found:
        typer.echo("There is no study that you may see. Submit one: manent studies submit --help")


@studies_app.command()
def show(study: Which, server: Server, pin: Pin = None, as_json: Json = False) -> None:
    """How a study stands, and what each site has decided, with its reason."""
    with _asking(server, pin) as researcher:
        found = researcher.about(researcher.find(study))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(_line(found))
    if "sum" in found:
        typer.echo(_of_sum(found["sum"]))
    for site, decision in sorted(found.get("decisions", {}).items()):
        typer.echo(f"  {_plain(site)}: {'takes part' if decision['accepted'] else 'refuses: ' + _plain(decision['reason'])}")


@studies_app.command()
def statement(study: Which, server: Server, pin: Pin = None) -> None:
    """Who sees what in a study, as the server derives it. Each site derives its own."""
    with _asking(server, pin) as researcher:
        typer.echo(researcher.statement(researcher.find(study)))


@studies_app.command()
def history(study: Which, server: Server, pin: Pin = None) -> None:
    """What became of each sum so far, a line of JSON each."""
    with _asking(server, pin) as researcher:
        for row in researcher.history(researcher.find(study)):
            typer.echo(json.dumps(row))


@studies_app.command()
def stop(study: Which, server: Server, pin: Pin = None) -> None:
    """End a study before its time. What its sums have spent stays spent."""
    with _asking(server, pin) as researcher:
        hash = researcher.find(study)
        researcher.stop(hash)
    typer.echo(f"Study {hash[:16]} is stopped.")


@studies_app.command()
def result(
    study: Which,
    server: Server,
    output: Annotated[Path, typer.Option("--output", "-o", help="A new file for it, safetensors.")] = Path("model.safetensors"),
    pin: Pin = None,
) -> None:
    """Fetch what a finished study has come to."""
    with _asking(server, pin) as researcher:
        researcher.result(researcher.find(study), output)
    typer.echo(f"Written to {output}")


def bundle_of(path: Path, file: StudyFile, data_set: str, more: list[Path] | tuple[()], requirements: Path | None) -> Bundle:
    """The study as it travels: with code where its model is no built-in one."""
    from manent.network.wire.bundle import Bundle
    from manent.rounds.declared import DeclaredModel, rebuild

    name = re.sub(r"[^A-Za-z0-9._:@-]+", "-", data_set).strip("-")
    own = isinstance(getattr(rebuild(file.study.to_plain()).algorithm, "model", None), DeclaredModel)
    if not own and (more or requirements):
        raise InvalidInput(f"{path} has a built-in model, so no code travels. Leave --code and --requirements out.")
    pinned = () if requirements is None else pins(requirements)
    return Bundle.of(file.study, file.data.schema, name, code_of(path, more) if own else {}, pinned)


def _line(one: dict[str, Any]) -> str:
    reason = f": {_plain(one['reason'])}" if one.get("reason") else ""
    at = f"round {one.get('round')}" if one.get("phase") == "running" else ""
    return f"{str(one['hash'])[:16]}  {_plain(one.get('phase')):10}  {_plain(one.get('name')):20}  {at}{reason}".rstrip()


def _of_sum(sum: dict[str, Any]) -> str:
    """Of the sum under way: who is waited for, and until when. Raises ProtocolAbort where it says something else."""
    try:
        closes = datetime.fromtimestamp(int(sum["closes"]), UTC).strftime("%d %B, %H:%M:%S UTC")
        again = f"; attempt {int(sum['attempt'])}, as too few answered before" if int(sum["attempt"]) > 1 else ""
        asked = f"{int(sum['count'])} sites are asked, phase {_plain(sum['phase'])!r} until {closes}{again}"
        return f"  {_plain(sum['name'])!r} of round {int(sum['round'])}: {asked}"
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        raise ProtocolAbort("What the server says of the sum under way does not fit.") from None


def _plain(text: object) -> str:
    """What comes from elsewhere, without what drives a terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:2000])
