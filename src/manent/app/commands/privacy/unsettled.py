"""Reservations of a ledger whose studies run, or were interrupted: listed, and settled by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from manent.core.errors import InvalidInput

if TYPE_CHECKING:
    from manent.accounting import Ledger

Settle = Annotated[
    str | None,
    typer.Option(
        metavar="RESERVATION",
        help="Settle what a study has reserved whose process is gone for good. Nothing more can be released under it.",
    ),
]
Released = Annotated[
    int | None,
    typer.Option(min=0, help="With --settle: how many releases it made, at the most. (default: all that was reserved is spent)"),
]


def settle(ledger: Ledger, reservation: str | None, released: int | None) -> None:
    """Settle a reservation, where one is named. Raises InvalidInput as `settle_by_hand`, and for --released alone."""
    from manent.rounds.spending import settle_by_hand

    if reservation is not None:
        settle_by_hand(ledger, reservation, released)
    elif released is not None:
        raise InvalidInput("--released goes with --settle RESERVATION.")


def unsettled(ledger: Ledger) -> list[dict[str, Any]]:
    """Every reservation that is not settled, for programs."""
    return [
        {
            "reservation": one.reservation.id,
            "data_set": one.reservation.data_set,
            "study": one.study,
            "since": one.since,
            "released": one.releases,
            "of": one.most,
        }
        for one in ledger.unsettled()
    ]


def tell(rows: list[dict[str, Any]]) -> None:
    """Print a line for each reservation that is not settled."""
    for row in rows:
        of = "" if row["of"] is None else f" of {row['of']}"
        since = f", since {row['since'][:16]}Z" if row["since"] else ""
        study = f", study {row['study'][:12]}" if row["study"] else ""
        typer.echo(f"not settled: {row['reservation']} on {row['data_set']}{study}{since}: {row['released']}{of} released")
