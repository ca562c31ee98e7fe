"""`manent receipts verify`: whether a site's receipts hold, and what was released."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manent.app.commands.receipts.sources import key, of_file, of_folder

if TYPE_CHECKING:
    from manent.network.trust.receipts import Receipt

_OUTCOMES = {
    "released": "in the sum, which was released",
    "left out": "sent, but not in the sum",
    "abandoned": "sent; no sum was released",
}


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

    rows, last, own = of_folder(source, noted) if source.is_dir() else of_file(source, public, noted)
    if public is not None:
        own = key(public)
    found = receipts.verify(rows, own, last)
    typer.echo(f"{len(found):,} receipts, signed by {own.hex()}")
    for study, of in receipts.by_study(found).items():
        _tell(study, of, each)
    typer.echo(f"To be noted elsewhere: {len(found)}:{receipts.hash_of(rows)}")


def _tell(study: str, of: list[Receipt], each: bool) -> None:
    """Print what one study got: a line for each guarantee, and with `each` a line for each receipt."""
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
