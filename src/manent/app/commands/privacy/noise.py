"""`manent noise`: the noise that an epsilon needs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from manent.app.commands.options import AsJson
from manent.app.commands.privacy.options import Accountant, Delta, Probability, Relation, Rounds, counted


def noise(
    epsilon: Annotated[float, typer.Option(help="At most this much.")],
    rounds: Rounds,
    delta: Delta,
    sampling_probability: Probability = None,
    relation: Relation = "add_or_remove",
    accountant: Accountant = "auto",
    as_json: AsJson = False,
) -> None:
    """The least noise that keeps so many Gaussian releases within an epsilon.

    [dim]manent noise --epsilon 1 --sampling-probability 0.01 --rounds 10000 --delta 1e-5[/]
    """
    from manent.accounting import calibrate, training
    from manent.accounting import epsilon as computed

    options: tuple[Any, ...] = (relation, accountant)
    multiplier = calibrate(epsilon, delta, lambda z: training(z, rounds, sampling_probability), *options)
    found = computed(training(multiplier, rounds, sampling_probability), delta, *options)
    if as_json:
        typer.echo(json.dumps({"noise_multiplier": multiplier, "rounds": rounds, **found.to_plain()}))
    else:
        typer.echo(f"noise multiplier {multiplier:.5g}, {counted(rounds)}\n{found}")
