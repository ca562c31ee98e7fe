"""Stragglers on synthetic(1,1): FedAvg drops them, FedProx keeps their partial work."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import manent as mn
from literature.cells import (
    PALETTE,
    Cell,
    Job,
    Paper,
    Table,
    by_name,
    central_test,
    draw_curves,
    last_common,
    percent,
    points,
    spread,
    tails,
    tidy,
)

SHARES = (0, 50, 90)
METHODS = {"FedAvg, drops stragglers": None, "FedProx, µ = 0": 0.0, "FedProx, µ = 1": 1.0}
DROPS, PARTIAL, PROX = METHODS
HEADLINE = 22.0
"""Points of accuracy at 90% stragglers by which FedProx at its best µ beats FedAvg, a mean over the paper's five data sets."""


@lru_cache(maxsize=1)
def devices() -> mn.Federation:
    """The same data for every seed, as in the paper."""
    return central_test(mn.data.synthetic(1, 1, clients=30, seed=0))


def jobs(quick: bool, seeds: int | None, folder: str | None) -> list[Job]:
    found = []
    model, local = mn.SoftmaxModel(60, 10), mn.LocalSGD(lr=0.01, epochs=20, batch_size=10)
    for seed in range(seeds or (1 if quick else 3)):
        for share in SHARES:
            for name, mu in METHODS.items():
                if share == 0 and name == PARTIAL:
                    continue  # without stragglers it is FedAvg
                algorithm = mn.FedAvg(model, local) if mu is None else mn.FedProx(model, local, mu=mu)
                study = mn.Study(algorithm, 20 if quick else 80, mn.Cohort(size=10))
                conditions = mn.Conditions(stragglers=share / 100, drop_stragglers=mu is None)
                # The work that is done, so the time: a straggler does half of it on average, or none.
                weight = 1 - share / 100 * (1.0 if mu is None else 0.5)
                found.append(Job(f"{share}% | {name}", seed, study, devices, 1, None, weight + 0.1, conditions))
    return found


def found(cells: Sequence[Cell]) -> dict[int, dict[str, list[Cell]]]:
    """By straggler share and method; µ = 0 without stragglers is FedAvg's."""
    groups = by_name(cells)
    return {share: {name: groups.get(f"{share}% | {name}", groups[f"0% | {DROPS}"]) for name in METHODS} for share in SHARES}


def gain(groups: dict[str, list[Cell]], method: str, until: int) -> tuple[float, float]:
    """Points by which a method beats FedAvg, mean and sd over seeds."""
    pairs = zip(groups[method], groups[DROPS], strict=True)
    return spread([100 * (ours.tail(until) - other.tail(until)) for ours, other in pairs])


def tables(cells: Sequence[Cell]) -> list[Table]:
    shares, until = found(cells), last_common(by_name(cells))
    rows = []
    for share, groups in shares.items():
        best = max(gain(groups, name, until) for name in (PARTIAL, PROX))
        published = f"+{HEADLINE:.0f} (mean of five data sets)" if share == 90 else ""
        accuracy = [percent(tails(groups[name], until)) for name in METHODS]
        rows.append((f"{share}%", *accuracy, points(best), published))
    columns = ("stragglers", *METHODS, "best FedProx - FedAvg, points", "published")
    seeds = len(shares[0][DROPS])
    return [Table(f"Test accuracy, %, mean over the last fifth of {until} rounds, {seeds} seed(s)", columns, rows)]


def differs(cells: Sequence[Cell]) -> list[str]:
    shares, until = found(cells), last_common(by_name(cells))
    partial, prox = gain(shares[90], PARTIAL, until), gain(shares[90], PROX, until)
    sentences = [
        f"With 90% stragglers, keeping partial work gains {points(partial)} points (µ = 0) and {points(prox)} (µ = 1) over "
        f"dropping it; the paper's +{HEADLINE:.0f} is a mean over five data sets at its best µ, so this one is "
        f"{'above' if max(partial, prox)[0] > HEADLINE else 'below'} it."
    ]
    for share, groups in shares.items():
        pull = 100 * (tails(groups[PROX], until)[0] - tails(groups[PARTIAL], until)[0])
        noise = 100 * max(tails(groups[name], until)[1] for name in (PROX, PARTIAL))
        verdict = "within the seeds' spread" if abs(pull) <= noise else ("a gain" if pull > 0 else "a loss")
        sentences.append(
            f"At {share}% the proximal term itself (µ = 1 against µ = 0) changes accuracy by {pull:+.1f} points, {verdict}."
        )
    worse = [f"{share}%" for share in SHARES if gain(shares[share], PROX, until)[0] < 0]
    if worse:
        sentences.append(f"FedProx with µ = 1 does not beat FedAvg at {', '.join(worse)} stragglers.")
    return sentences


def draw(cells: Sequence[Cell], figure: Any) -> None:
    colours = dict(zip(METHODS, (PALETTE[1], PALETTE[4], PALETTE[0]), strict=True))
    short = {DROPS: "FedAvg", PARTIAL: "µ = 0", PROX: "µ = 1"}
    grid = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (share, groups) in zip(grid, found(cells).items(), strict=True):
        shown = {short[name]: group for name, group in groups.items() if share or name != PARTIAL}
        draw_curves(axes, shown, {short[name]: colour for name, colour in colours.items()})
        tidy(axes, f"{share}% stragglers", "round", "test accuracy" if share == 0 else "")


PAPER = Paper(
    "fedprox2020",
    "Li et al. 2020 (FedProx): stragglers on synthetic(1,1)",
    "Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, *Federated Optimization in Heterogeneous Networks*. As published: logistic "
    "regression, 30 devices, 10 a round, 20 epochs, learning rate 0.01, batch 10; a straggler finishes between 1 and 20 epochs; "
    "FedAvg drops it, FedProx takes what it did. Different: the data are drawn anew by the published formula; each device is a "
    "straggler with the given probability, rather than an exact share of the cohort; fewer rounds than the paper's 200; "
    "accuracy is the mean over the last fifth of the rounds, as single ones jump.",
    (75, 600),
    jobs,
    tables,
    differs,
    draw,
    (11.5, 3.6),
)
