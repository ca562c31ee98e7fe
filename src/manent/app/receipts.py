"""`manent receipts`: what a site sent, and under which guarantee."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manent.core.errors import InvalidInput

if TYPE_CHECKING:
    from manent.network.trust.receipts import Receipt

receipts_app = typer.Typer(
    no_args_is_help=True,
    help="A site's receipts: one for each sum to which it sent its vector.\n\n"
    "[dim]manent receipts verify site\n"
    "manent receipts export site > receipts.jsonl[/]",
)
_OUTCOMES = {
    "released": "in the sum, which was released",
    "left out": "sent, but not in the sum",
    "abandoned": "sent; no sum was released",
}


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(receipts_app, name="receipts")


@receipts_app.command()
def verify(
    source: Annotated[Path, typer.Argument(metavar="FOLDER|FILE", help="A site's folder, or a file that `export` wrote.")],
    public: Annotated[str | None, typer.Option(metavar="KEY", help="The site's public key. (default: the folder's own)")] = None,
    noted: Annotated[str | None, typer.Option(metavar="COUNT:HASH", help="What this printed earlier.")] = None,
    each: Annotated[bool, typer.Option("--each", help="Also print every receipt.")] = False,
) -> None:
    """Check every receipt, and print what was released under which guarantee; exit code 1 where one does not hold.

    A receipt that is missing, altered, repeated or moved is named.

    [dim]manent receipts verify site --each
    manent receipts verify receipts.jsonl --public 5f1c...[/]
    """
    from manent.network.trust import receipts

    rows, last, key = _of_folder(source, noted) if source.is_dir() else _of_file(source, public, noted)
    if public is not None:
        key = _key(public)
    found = receipts.verify(rows, key, last)
    typer.echo(f"{len(found):,} receipts, signed by {key.hex()}")
    for study, of in receipts.by_study(found).items():
        _tell(study, of, each)
    typer.echo(f"To be noted elsewhere: {len(found)}:{receipts.hash_of(rows)}")


@receipts_app.command()
def export(folder: Annotated[Path, typer.Argument(help="A site's folder.")]) -> None:
    """Print the receipts as they were signed, one a line, for whoever is to check them.

    [dim]manent receipts export site > receipts.jsonl[/]
    """
    for row in _of_folder(folder, None)[0]:
        typer.echo(row.decode())


def _of_folder(folder: Path, noted: str | None) -> tuple[tuple[bytes, ...], str, bytes]:
    from manent.network.site.state import IDENTITY, STORE
    from manent.network.trust import receipts
    from manent.network.trust.identity import Identity
    from manent.storage import open_store

    if not (folder / IDENTITY).is_file() or not (folder / STORE).is_file():
        raise InvalidInput(f"{folder} is no site's folder; name the one that `manent join` or `manent site` was given.")
    store = open_store(folder / STORE)
    rows, last = receipts.stored(store, noted)
    return rows, last, Identity.load(folder / IDENTITY).signing_key.public


def _of_file(path: Path, public: str | None, noted: str | None) -> tuple[tuple[bytes, ...], str | None, bytes]:
    if not path.exists():
        raise InvalidInput(f"There is no {path}; name a site's folder, or a file that `manent receipts export` wrote.")
    if public is None or noted is not None:
        raise InvalidInput(
            "Of exported receipts, give the site's key with --public, as its people read it out to you; no --noted."
        )
    return tuple(path.read_bytes().splitlines()), None, _key(public)


def _key(public: str) -> bytes:
    from manent.network.trust.identity import from_hex

    return from_hex("A site's public key", public.strip().lower(), 32)


def _tell(study: str, of: list[Receipt], each: bool) -> None:
    """What one study got, and under which guarantees: one line as long as the guarantee is the same."""
    typer.echo(f"\nStudy {study}, summed by {of[0].summation}")
    for promise in dict.fromkeys(str(receipt.guarantee) for receipt in of):
        under = [receipt for receipt in of if str(receipt.guarantee) == promise]
        counts = {outcome: sum(receipt.outcome == outcome for receipt in under) for outcome in _OUTCOMES}
        told = ", ".join(f"{count} {_OUTCOMES[outcome]}" for outcome, count in counts.items() if count)
        most = under[0].guarantee.releases
        typer.echo(f"  {told}{'' if most is None else f' (at most {most} are)'}\n  under: {promise}")
    for receipt in of if each else ():
        among = "an unknown number" if receipt.survivors is None else str(receipt.survivors)
        typer.echo(
            f"  round {receipt.round}, {receipt.sum} {receipt.index}, attempt {receipt.attempt}: {_OUTCOMES[receipt.outcome]}; "
            f"{among} of {receipt.cohort} in it; upload {receipt.upload[:16]}"
        )
