"""Options of `manent epsilon`, `noise` and `budget`."""

from __future__ import annotations

from typing import Annotated

import typer

Accountant = Annotated[str, typer.Option(help="auto, pld, rdp, zcdp, analytic or pure.")]
Delta = Annotated[float, typer.Option(help="Below one over the number of units that are protected.")]
Probability = Annotated[
    float | None,
    typer.Option(help="Each unit takes part independently with this probability (Poisson), in secret. (default: all do)"),
]
Relation = Annotated[
    str, typer.Option("--relation", metavar="RELATION", help="What may differ: add_or_remove, replace_one or zero_out.")
]
Rounds = Annotated[int, typer.Option(min=1, help="How many sums are released.")]


def counted(rounds: int) -> str:
    """So many rounds, in words."""
    return f"{rounds:,} round{'s' * (rounds > 1)}"
