"""Uneven local work on skewed data: FedAvg against FedNova, plain and with momentum on the clients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import nn

import manent as mn
from literature.cells import (
    PALETTE,
    Cell,
    Job,
    Paper,
    Table,
    by_name,
    draw_curves,
    last_common,
    percent,
    points,
    spread,
    tails,
    tidy,
)

ROWS, CLIENTS = 20_000, 16
PUBLISHED = {"FedAvg": 64.2, "FedNova": 73.2, "FedAvg, momentum": 70.4, "FedNova, momentum": 77.1}
PAIRS = (("plain SGD", "FedAvg", "FedNova"), ("momentum 0.9", "FedAvg, momentum", "FedNova, momentum"))
RATES = {"plain": 0.1, "momentum": 0.02}


@lru_cache(maxsize=1)
def garments(seed: int) -> mn.Federation:
    """The first 20,000 images, dealt by Dir(0.1) over 16 clients, whose sizes then differ too."""
    pool = mn.data.fashion_mnist(1, flat=True)
    part = pool.clients[0].train[:ROWS]
    split = mn.data.Dirichlet(0.1)
    return mn.data.from_arrays(part.x, part.y, clients=CLIENTS, split=split, test_fraction=0.0, seed=seed, test=pool.test)


def algorithm(name: str, rounds: int) -> Any:
    """A method; the learning rate falls to a tenth after half of the rounds."""
    network = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    model = mn.TorchModel(network, loss="cross_entropy")
    heavy = name.endswith("momentum")
    decay = mn.ExponentialDecay(0.1, every=-(-rounds // 2))
    lr = RATES["momentum" if heavy else "plain"]
    local = mn.LocalSGD(lr=lr, epochs=(2, 5), batch_size=32, momentum=0.9 if heavy else 0.0, schedule=decay)
    return (mn.FedNova if name.startswith("FedNova") else mn.FedAvg)(model, local)


def jobs(quick: bool, seeds: int | None, folder: str | None) -> list[Job]:
    found = []
    for seed in range(seeds or (1 if quick else 3)):
        for name in PUBLISHED:
            rounds = 16 if quick else 50
            study = mn.Study(algorithm(name, rounds), rounds)

            def data(seed: int = seed) -> mn.Federation:
                return garments(seed)

            found.append(Job(name, seed, study, data))
    return found


def gain(groups: dict[str, list[Cell]], old: str, new: str, until: int) -> tuple[float, float]:
    """Points by which FedNova beats FedAvg on the same split, mean and sd over seeds."""
    return spread([100 * (n.tail(until) - o.tail(until)) for o, n in zip(groups[old], groups[new], strict=True)])


def tables(cells: Sequence[Cell]) -> list[Table]:
    groups = by_name(cells)
    until, rows = last_common(groups), []
    for title, old, new in PAIRS:
        ours = gain(groups, old, new, until)
        published = f"{PUBLISHED[old]} → {PUBLISHED[new]} ({PUBLISHED[new] - PUBLISHED[old]:+.1f})"
        rows.append(
            (
                title,
                percent(tails(groups[old], until)),
                percent(tails(groups[new], until)),
                points(ours),
                published,
            )
        )
    columns = ("local steps", "FedAvg", "FedNova", "FedNova - FedAvg, points", "published (CIFAR-10, VGG-11)")
    return [
        Table(f"Test accuracy, %, mean over the last fifth of {until} rounds, {len(groups['FedAvg'])} seed(s)", columns, rows)
    ]


def differs(cells: Sequence[Cell]) -> list[str]:
    groups = by_name(cells)
    until = last_common(groups)
    sentences = []
    for title, old, new in PAIRS:
        ours, published = gain(groups, old, new, until), PUBLISHED[new] - PUBLISHED[old]
        verdict = "does not win" if ours[0] <= 0 else ("wins by less than one sd over seeds" if ours[0] < ours[1] else "wins")
        sentences.append(
            f"With {title} FedNova {verdict} here ({points(ours)} points; published {published:+.1f} on a harder "
            f"task with a deeper network)."
        )
    return sentences


def draw(cells: Sequence[Cell], figure: Any) -> None:
    groups = by_name(cells)
    grid = figure.subplots(1, 2, sharey=True)
    for axes, (title, old, new) in zip(grid, PAIRS, strict=True):
        draw_curves(axes, {"FedAvg": groups[old], "FedNova": groups[new]}, {"FedAvg": PALETTE[1], "FedNova": PALETTE[0]})
        tidy(axes, title, "round", "test accuracy" if axes is grid[0] else "")


PAPER = Paper(
    "fednova2020",
    "Wang et al. 2020 (FedNova): uneven local work",
    "Wang, Liu, Liang, Joshi, Poor, *Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization*. As "
    "published: 16 clients, Dir(0.1) (sizes differ too), 2 to 5 local epochs drawn for each client and round, batch 32. "
    "**Different: Fashion-MNIST (20,000 images) and one hidden layer of 100, not CIFAR-10 and VGG-11**; learning rates of 0.1, "
    "and 0.02 with momentum (the best of three each), a tenth of that in the second half; fewer rounds. Gains are "
    "taken on the same split and seed.",
    (70, 600),
    jobs,
    tables,
    differs,
    draw,
    (10.0, 3.8),
)
