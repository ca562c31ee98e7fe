"""`manent roster show`: the sites of the book, or of a signed roster."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from manent.app.commands.options import AsJson
from manent.app.commands.roster.options import HERE, Folder, date
from manent.core.errors import InvalidInput, NotAuthorized


def show(
    file: Annotated[Path | None, typer.Argument(metavar="[ROSTER.json]", help="A signed roster. (default: the book)")] = None,
    consortium: Annotated[str | None, typer.Option(help="Public key that must have signed ROSTER.json.")] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """The sites in the book, and what is not signed yet; or those of a signed roster, with exit code 1 if it is not valid.

    [dim]manent roster show
    manent roster show roster.json --consortium 9f86d0...[/]
    """
    if file is None:
        if consortium is not None:
            raise InvalidInput("--consortium checks a signed roster; name its file too: manent roster show ROSTER.json")
        values = _of_book(folder)
    else:
        values = _of_roster(file, consortium)
    typer.echo(json.dumps(values, indent=2)) if as_json else _print(values)
    if values.get("refused"):
        raise NotAuthorized(values["refused"])


def _of_book(folder: Path) -> dict[str, Any]:
    """What the book holds, and how it differs from the roster that was signed last."""
    from manent.network.trust.roster import RosterBook, read_roster

    book = RosterBook.load(folder)
    path = RosterBook.roster_path(folder)
    signed = read_roster(path) if path.exists() else None
    known = set() if signed is None else set(signed.entries)
    changes = [f"+ {entry.name}" for entry in book.entries if entry not in known]
    changes += [f"- {entry.name}" for entry in sorted(known - set(book.entries), key=lambda entry: entry.name)]
    return {
        "number": book.number,
        "signer": book.signer,
        "expires": None if signed is None else signed.expires,
        "sites": [asdict(entry) for entry in book.entries],
        "unsigned_changes": changes,
    }


def _of_roster(file: Path, consortium: str | None) -> dict[str, Any]:
    """What a signed roster holds, and why it is refused, if it is.

    Without a consortium's key, it is checked against the key that it names itself.
    """
    from manent.network.trust.identity import from_hex
    from manent.network.trust.roster import read_roster

    signed = read_roster(file)
    public = from_hex("A consortium's public key", signed.signer if consortium is None else consortium, 32)
    reason = None
    try:
        signed.verify(public, time.time())
    except NotAuthorized as error:
        reason = str(error)
    return {
        "number": signed.number,
        "signer": signed.signer,
        "issued": signed.issued,
        "expires": signed.expires,
        "sites": [asdict(entry) for entry in signed.entries],
        "compared_with_a_known_key": consortium is not None,
        "refused": reason,
    }


def _print(values: dict[str, Any]) -> None:
    until = "" if values["expires"] is None else f", until {date(values['expires'])}"
    typer.echo(f"Roster {values['number'] or 'not signed yet'}{until}\nsigned by {values['signer']}")
    if values.get("compared_with_a_known_key") is False:
        typer.echo("Whose key that is was not checked; do so with --consortium KEY.")
    width = max((len(entry["name"]) for entry in values["sites"]), default=0)
    for entry in values["sites"]:
        typer.echo(f"  {entry['name']:{width}}  {entry['public']}  since {date(entry['since'])}")
    if values.get("unsigned_changes"):
        typer.echo("Not signed yet: " + ", ".join(values["unsigned_changes"]))
