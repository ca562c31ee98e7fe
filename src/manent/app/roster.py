"""Commands of a consortium: who may take part, signed with a key that is best kept on a machine without a network."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manent.app.stores import ServerArgument, server_store
from manent.core.errors import InvalidInput, NotAuthorized

if TYPE_CHECKING:
    from manent.core.store import Store
    from manent.network.server.rosters import Rosters
    from manent.network.trust.roster import RosterBook, SignedRoster

roster_app = typer.Typer(
    no_args_is_help=True,
    help="Who may take part: a numbered list of sites that expires, signed by the consortium.\n\n"
    "On the machine with the key, which needs no network:\n\n"
    "[dim]manent roster init heart-consortium\n"
    "manent roster add karolinska 5f1c...   (as `manent site init` prints it there)\n"
    "manent roster sign                     (writes roster.json, to be carried to the server)[/]\n\n"
    "On the server:\n\n"
    "[dim]manent serve study.py --consortium 9f86...\n"
    "manent roster waiting server\n"
    "manent roster publish server roster.json[/]",
)
Folder = Annotated[Path, typer.Option(help="Where book, roster and (unless elsewhere) the key are kept.")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="The consortium's key file. (default: consortium.key in the folder)")]
HERE = Path("consortium")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(roster_app, name="roster")


@roster_app.command()
def init(
    name: Annotated[str, typer.Argument(help="Of the consortium.")],
    folder: Folder = HERE,
    key: KeyFile = None,
) -> None:
    """Begin a consortium: make its key, and an empty list of sites.

    [dim]manent roster init heart-consortium --key /media/usb/consortium.key[/]
    """
    from manent.network.trust.roster import RosterBook

    book = RosterBook.create(folder, name, key)
    typer.echo(
        f"Consortium {name}, key in {key or RosterBook.key_path(folder)}. Keep it, and a copy, where no network reaches: "
        "whoever has it decides who takes part.\n"
        f"Its public half, for every site's operator over a channel they trust, and for the server:\n{book.signer}\n"
        f"  manent serve STUDY.py --consortium {book.signer}"
    )


@roster_app.command()
def add(
    name: Annotated[str, typer.Argument(help="Of the site, as people will read it.")],
    public: Annotated[str, typer.Argument(metavar="KEY", help="The site's public key, 64 hexadecimal digits.")],
    folder: Folder = HERE,
) -> None:
    """Add a site to the book. It counts from the next signing on.

    Compare the key with what the site's own people read out to you: nothing else says that it is theirs.
    """
    from manent.network.trust.roster import RosterBook

    book = RosterBook.load(folder).add(name, public.strip().lower(), time.time())
    typer.echo(f"{name} added; {_counted(book)}, not signed yet: manent roster sign --folder {folder}")


@roster_app.command()
def remove(name: Annotated[str, typer.Argument(help="Of the site.")], folder: Folder = HERE) -> None:
    """Remove a site from the book. It counts from the next signing on: sign at once, and give the roster to the server."""
    from manent.network.trust.roster import RosterBook

    book = RosterBook.load(folder).remove(name)
    typer.echo(f"{name} removed; {_counted(book)}, not signed yet: manent roster sign --folder {folder}")


@roster_app.command()
def sign(
    folder: Folder = HERE,
    key: KeyFile = None,
    days: Annotated[int, typer.Option(help="For how long sites accept it. Short times make a removal certain sooner.")] = 90,
) -> None:
    """Sign the book as the next roster, also without changes: to renew one before it expires."""
    from manent.network.trust.identity import Identity
    from manent.network.trust.roster import RosterBook

    book = RosterBook.load(folder)
    identity = Identity.load(key or RosterBook.key_path(folder))
    book, signed = book.sign(identity.signing_key, time.time(), days)
    typer.echo(
        f"Roster {signed.number} of {_counted(book)} signed, until {_date(signed.expires)}: {RosterBook.roster_path(folder)}\n"
        "Take it to the server, and there: manent roster publish SERVER roster.json. Sites take it from there, and refuse older "
        "ones."
    )


@roster_app.command()
def waiting(server: ServerArgument) -> None:
    """Who asked a server to join, and is on no roster that it was given. To be run on the server.

    What it prints was said by whoever had an invitation: compare each key with what the site's own people read out to you.

    [dim]manent roster waiting server[/]
    """
    store = server_store(server)
    rosters = _rosters(store)
    with store.snapshot() as view:
        number, found = rosters.newest(view), rosters.waiting(view)
    typer.echo(f"Roster {number}; waiting: {len(found)}." if number else f"No roster yet; waiting: {len(found)}.")
    for public, name in sorted(found.items(), key=lambda item: item[1]):
        typer.echo(f"  manent roster add {name} {public}")


@roster_app.command()
def publish(
    server: ServerArgument,
    file: Annotated[Path, typer.Argument(metavar="ROSTER.json", help="As `manent roster sign` wrote it.")],
) -> None:
    """Hand a signed roster in, also while the server runs. To be run on the server; one that is older is refused.

    [dim]manent roster publish server roster.json[/]
    """
    from manent.network.trust.roster import read_roster

    signed = read_roster(file)
    taken = _rosters(server_store(server)).publish(signed, time.time())
    count = f"{len(signed.entries):,} site{'s' * (len(signed.entries) != 1)}"
    if taken:
        typer.echo(f"Roster {signed.number} of {count} is in force, until {_date(signed.expires)}.")
    else:
        typer.echo(f"Roster {signed.number} of {count} was in force already.")


def _rosters(store: Store) -> Rosters:
    """A server's rosters, as whoever runs it may see them and hand them in."""
    from manent.network.server.rosters import Rosters, settle

    return Rosters(store, None, settle(store, None))


@roster_app.command()
def show(
    file: Annotated[Path | None, typer.Argument(metavar="[ROSTER.json]", help="A signed roster. (default: the book)")] = None,
    consortium: Annotated[str | None, typer.Option(help="Public key that must have signed ROSTER.json.")] = None,
    folder: Folder = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """The sites in the book, and what is not signed yet; or those of a signed roster, with exit code 1 where it does not hold.

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
    from manent.network.trust.identity import from_hex
    from manent.network.trust.roster import read_roster

    signed: SignedRoster = read_roster(file)
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
    until = "" if values["expires"] is None else f", until {_date(values['expires'])}"
    typer.echo(f"Roster {values['number'] or 'not signed yet'}{until}\nsigned by {values['signer']}")
    if values.get("compared_with_a_known_key") is False:
        typer.echo("Whose key that is was not checked; do so with --consortium KEY.")
    width = max((len(entry["name"]) for entry in values["sites"]), default=0)
    for entry in values["sites"]:
        typer.echo(f"  {entry['name']:{width}}  {entry['public']}  since {_date(entry['since'])}")
    if values.get("unsigned_changes"):
        typer.echo("Not signed yet: " + ", ".join(values["unsigned_changes"]))


def _counted(book: RosterBook) -> str:
    return f"{len(book.entries):,} site{'s' * (len(book.entries) != 1)}"


def _date(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"
