"""Similarity of clients against rounds to a target: SGD, FedAvg, FedProx, SCAFFOLD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

import manent as mn
from literature.cells import PALETTE, Cell, Job, Needed, Paper, Table, by_name, draw_rounds, needed, quote, tidy

CLIENTS, TARGET = 100, 0.78
SHARES = (0, 10, 100)
PUBLISHED: dict[str, tuple[int, int, int]] = {
    "SGD": (317, 365, 416),
    "FedAvg E=1": (258, 74, 83),
    "FedAvg E=5": (428, 34, 10),
    "FedProx E=1": (1000, 979, 459),
    "SCAFFOLD E=1": (77, 62, 60),
    "SCAFFOLD E=5": (152, 20, 10),
}
"""Rounds to 0.5 on EMNIST with 0, 10 and 100% similarity; 1000 stands for "1k+"."""
LIMIT = 250
RATES: dict[str, tuple[float, float, float]] = {
    "SGD": (0.3, 0.3, 0.3),
    "FedAvg E=1": (0.1, 0.3, 0.3),
    "FedAvg E=5": (0.1, 0.3, 0.3),
    "FedProx E=1": (0.3, 0.3, 0.3),
    "SCAFFOLD E=1": (0.1, 0.1, 0.3),
    "SCAFFOLD E=5": (0.3, 0.3, 0.1),
}
"""Learning rates by similarity, the best of a coarse grid."""

# What each cell takes, roughly: rounds times work.
WEIGHTS = dict.fromkeys(RATES, (3.0, 2.0, 1.0)) | {"SGD": (3.0, 3.0, 3.0), "FedAvg E=5": (8.0, 1.0, 0.5)}


@dataclass(frozen=True)
class Similarity:
    """A share of every client's rows is dealt at random, the rest in order of the label (Karimireddy et al. 2020, section 7)."""

    share: float

    def __call__(self, labels: Any, clients: int, rng: np.random.Generator) -> list[Any]:
        order = rng.permutation(len(labels))
        cut = round(self.share * len(labels))
        alike, rest = order[:cut], order[cut:]
        rest = rest[np.argsort(labels[rest], kind="stable")]
        pieces = zip(np.array_split(alike, clients), np.array_split(rest, clients), strict=True)
        return [np.sort(np.concatenate(pair)).astype(np.int64) for pair in pieces]


@lru_cache(maxsize=1)
def garments(share: int, seed: int) -> mn.Federation:
    return mn.data.fashion_mnist(CLIENTS, Similarity(share / 100), flat=True, seed=seed)


def algorithm(name: str, lr: float) -> Any:
    """A row of the table. One epoch is five steps on a fifth of a client's 600 images; SGD is one step on all of them."""
    model = mn.SoftmaxModel(784, 10)
    if name == "SGD":
        return mn.FedSGD(model, lr)
    method, epochs = name.split(" E=")
    local = mn.LocalSGD(lr=lr, epochs=int(epochs), batch_size=120)
    if method == "FedProx":
        return mn.FedProx(model, local, mu=1.0)
    return mn.SCAFFOLD(model, local) if method == "SCAFFOLD" else mn.FedAvg(model, local)


def jobs(quick: bool, seeds: int | None, folder: str | None) -> list[Job]:
    found = []
    for seed in range(seeds or (1 if quick else 3)):
        for place, share in enumerate(SHARES):
            for name in PUBLISHED:
                study = mn.Study(algorithm(name, RATES[name][place]), LIMIT, mn.Cohort(size=CLIENTS // 5))

                def data(share: int = share, seed: int = seed) -> mn.Federation:
                    return garments(share, seed)

                found.append(Job(f"{share}% | {name}", seed, study, data, 2 if share == 0 else 1, TARGET, WEIGHTS[name][place]))
    return found


def found(cells: Sequence[Cell]) -> dict[int, dict[str, Needed]]:
    groups = by_name(cells)
    return {
        share: {name: needed(groups[f"{share}% | {name}"], TARGET) for name in PUBLISHED if f"{share}% | {name}" in groups}
        for share in SHARES
    }


def figure_of(name: str, share: int) -> str:
    value = PUBLISHED[name][SHARES.index(share)]
    return "1k+" if value >= 1000 else str(value)


def tables(cells: Sequence[Cell]) -> list[Table]:
    by_share = found(cells)
    rows = []
    for name in by_share[0]:
        ours = [str(by_share[share][name]) for share in SHARES]
        rates = " / ".join(f"{rate:g}" for rate in RATES[name])
        rows.append(
            (name, rates, *(text for share, one in zip(SHARES, ours, strict=True) for text in (figure_of(name, share), one)))
        )
    heads = tuple(head for share in SHARES for head in (f"{share}%: published", f"{share}%: ours"))
    seeds = max(one.seeds for one in by_share[0].values())
    title = f"Rounds to {TARGET:g} on Fashion-MNIST (ours, {seeds} seed(s)) and to 0.5 on EMNIST (published), by similarity"
    return [Table(title, ("method", "learning rates", *heads), rows)]


def order(one: Needed, other: Needed) -> int:
    """-1 or 1 as the first needs fewer or more rounds than the other; 0 where a run that was cut short leaves it open."""
    if one.complete and other.complete:
        return -1 if one.mean < other.mean else 1
    if one.complete:
        return -1 if one.mean <= other.tried else 0
    return 1 if other.complete and other.mean <= one.tried else 0


def best(ours: dict[str, Needed], method: str) -> Needed:
    """The fewest rounds of a method over its numbers of epochs."""
    own = [one for name, one in ours.items() if name.startswith(method)]
    return min([one for one in own if one.complete] or own, key=lambda one: one.minimum)


def differs(cells: Sequence[Cell]) -> list[str]:
    by_share = found(cells)
    sentences = ["The data and the target are others, so orderings are compared, not rounds."]
    for place, share in enumerate(SHARES):
        ours, kept, other = by_share[share], 0, []
        for one, two in combinations(ours, 2):
            first, second = PUBLISHED[one][place], PUBLISHED[two][place]
            stands = order(ours[one], ours[two])
            if max(first, second) <= 1.2 * min(first, second) or not stands:
                continue
            if (first < second) == (stands < 0):
                kept += 1
            else:
                other.append(f"{one} / {two}")
        exceptions = f" (not {quote(other)})" if other else ""
        scaffold, fedavg = best(ours, "SCAFFOLD"), best(ours, "FedAvg")
        verdict = {-1: "beats", 0: "is not told apart from", 1: "does not beat"}[order(scaffold, fedavg)]
        sentences.append(
            f"At {share}% similarity {kept} of the {kept + len(other)} pairs that the paper separates by more than 20%, and that "
            f"were run long enough to tell, stand in its order{exceptions}; SCAFFOLD's best ({scaffold} rounds) {verdict} "
            f"FedAvg's ({fedavg})."
        )
    return sentences


def draw(cells: Sequence[Cell], figure: Any) -> None:
    colours = {"SGD": PALETTE[6], "FedAvg": PALETTE[1], "FedProx": PALETTE[2], "SCAFFOLD": PALETTE[0]}
    grid = figure.subplots(1, 3, sharex=True, sharey=True)
    for place, (axes, (share, ours)) in enumerate(zip(grid, found(cells).items(), strict=True)):
        rows = [(name, one, float(PUBLISHED[name][place]), PUBLISHED[name][place] >= 1000) for name, one in ours.items()]
        draw_rounds(axes, rows, [colours[name.split()[0]] for name in ours])
        tidy(axes, f"{share}% similarity", "rounds to the target", grid="x")
    figure.supxlabel(
        "Dot: ours (Fashion-MNIST), with sd over seeds.  Diamond: published (EMNIST, another target).  Arrow: more than that.",
        x=0.01,
        ha="left",
        fontsize=9.5,
    )


PAPER = Paper(
    "scaffold2020",
    "Karimireddy et al. 2020 (SCAFFOLD): similarity of clients against rounds",
    "Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, *SCAFFOLD: Stochastic Controlled Averaging for Federated Learning*, table "
    "3. As published: logistic regression, 100 clients, 20 a round, five steps an epoch, a share of each client's data dealt at "
    "random and the rest in order of the label, FedProx with µ = 1. **Different: Fashion-MNIST (10 classes), not EMNIST (62), "
    "and so another target; compare orderings.** Learning rates are the best of a coarse grid for each cell.",
    (100, 900),
    jobs,
    tables,
    differs,
    draw,
    (12.0, 4.4),
)
