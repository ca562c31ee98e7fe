"""Rounds to 97% on MNIST: FedAvg by local epochs, batch size and cohort, IID and with two shards a client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from torch import nn

import manent as mn
from literature.cells import PALETTE, QUIET, Cell, Job, Needed, Paper, Table, by_name, draw_rounds, needed, quote, tidy

CLOSE = 0.3
"""A public reproduction of the same tables differs by this much; so do we call what lies within it the same."""


@dataclass(frozen=True)
class Setting:
    """One cell: E, B (None is all), C as clients a round, and the published rounds."""

    network: str
    split: str
    epochs: int
    batch: int | None
    cohort: int
    lr: float
    published: int
    rounds: int
    every: int
    weight: float
    seeds: int = 3
    quick: bool = False

    @property
    def name(self) -> str:
        size = "∞" if self.batch is None else self.batch
        return f"{self.network} {self.split} E={self.epochs} B={size} C={self.cohort / 100 if self.cohort > 1 else 0:g}"

    @property
    def target(self) -> float:
        return 0.97 if self.network == "2NN" else 0.99


# The published rounds: table 1 (E=1, B=10, by C), table 4 (2NN by E and B) and table 2 (CNN).
SETTINGS = (
    Setting("2NN", "IID", 1, 10, 1, 0.1, 316, 800, 5, 3, quick=True),
    Setting("2NN", "IID", 1, 10, 10, 0.2, 87, 250, 2, 4, quick=True),
    Setting("2NN", "IID", 1, 10, 20, 0.2, 77, 250, 2, 8),
    Setting("2NN", "IID", 1, 10, 50, 0.2, 75, 250, 2, 20, seeds=1),
    Setting("2NN", "IID", 1, 50, 10, 0.6, 144, 400, 2, 4),
    Setting("2NN", "IID", 10, 50, 10, 0.2, 45, 150, 2, 8, quick=True),
    Setting("2NN", "IID", 10, 10, 10, 0.1, 34, 100, 1, 20, seeds=1),
    Setting("CNN", "IID", 1, 10, 10, 0.1, 34, 100, 1, 30, seeds=1),
    Setting("CNN", "IID", 5, 10, 10, 0.1, 20, 100, 1, 50, seeds=1),
    Setting("2NN", "two shards", 1, 10, 10, 0.1, 664, 1500, 5, 50, seeds=1, quick=True),
)


def network(name: str) -> mn.TorchModel:
    """The paper's 2NN (199,210 parameters) or CNN (1,663,370)."""
    if name == "2NN":
        layers = [nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)]
    else:
        layers = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5, padding=2), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)]
    return mn.TorchModel(nn.Sequential(*layers), loss="cross_entropy")


@lru_cache(maxsize=1)
def images(split: str, flat: bool, seed: int, folder: str | None) -> mn.Federation:
    return mn.data.mnist(100, mn.data.Shards(2) if split == "two shards" else None, flat=flat, seed=seed, folder=folder)


def jobs(quick: bool, seeds: int | None, folder: str | None) -> list[Job]:
    found = []
    for setting in SETTINGS:
        if quick and not setting.quick:
            continue
        local = mn.LocalSGD(lr=setting.lr, epochs=setting.epochs, batch_size=setting.batch)
        study = mn.Study(mn.FedAvg(network(setting.network), local), setting.rounds, mn.Cohort(size=setting.cohort))
        for seed in range(min(setting.seeds, seeds or (1 if quick else setting.seeds))):

            def data(setting: Setting = setting, seed: int = seed) -> mn.Federation:
                return images(setting.split, setting.network == "2NN", seed, folder)

            found.append(Job(setting.name, seed, study, data, setting.every, setting.target, setting.weight))
    return found


def found(cells: Sequence[Cell]) -> list[tuple[Setting, Needed]]:
    groups = by_name(cells)
    return [(setting, needed(groups[setting.name], setting.target)) for setting in SETTINGS if setting.name in groups]


def tables(cells: Sequence[Cell]) -> list[Table]:
    rows = []
    for setting, ours in found(cells):
        ratio = f"{ours.mean / setting.published:.2f}" if ours.complete else ""
        rows.append((setting.name, f"{setting.lr:g}", str(setting.published), str(ours), ratio, str(ours.seeds)))
    title = "Rounds to 97% (2NN) and 99% (CNN) test accuracy"
    return [Table(title, ("cell", "learning rate", "published", "ours (± sd)", "ours / published", "seeds"), rows)]


def differs(cells: Sequence[Cell]) -> list[str]:
    pairs = found(cells)
    reached = [(setting, ours) for setting, ours in pairs if ours.complete]
    near = [(s, o) for s, o in reached if abs(o.mean / s.published - 1) <= CLOSE]
    sentences = [f"{len(near)} of the {len(reached)} cells that reached the target did so within ±30% of the published rounds."]
    ratios = {s.name: o.mean / s.published for s, o in reached}
    if ratios:
        minimum, most = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
        middle = float(np.median(list(ratios.values())))
        sentences.append(
            f"Ours take {middle:.2f} of the published rounds in the middle case, from {ratios[minimum]:.2f} ({minimum}) to "
            f"{ratios[most]:.2f} ({most})."
        )
    late = [f"{s.name} (over {o.tried} rounds; published {s.published})" for s, o in pairs if not o.complete]
    if late:
        sentences.append(f"Not reached in the time given: {quote(late)}.")
    swapped, compared = [], 0
    for i, (s, o) in enumerate(reached):
        for t, p in reached[i + 1 :]:
            if s.network == t.network and max(s.published, t.published) > (1 + CLOSE) * min(s.published, t.published):
                compared += 1
                if (s.published < t.published) != (o.mean < p.mean):
                    swapped.append(f"{s.name} and {t.name}")
    order = "all keep that order here" if not swapped else f"here {quote(swapped)} stand the other way round"
    if compared:
        sentences.append(f"Of the {compared} pairs of cells whose published rounds are more than 30% apart, {order}.")
    return sentences


def draw(cells: Sequence[Cell], figure: Any) -> None:
    axes = figure.subplots()
    pairs = found(cells)
    colours = [PALETTE[("IID", "two shards").index(s.split)] if s.network == "2NN" else PALETTE[2] for s, _ in pairs]
    draw_rounds(axes, [(s.name, ours, s.published, False) for s, ours in pairs], colours)
    tidy(
        axes, "Dot: ours, with sd over seeds.  Diamond: published.  Arrow: not reached by then.", "rounds to the target", grid="x"
    )
    axes.title.set_color(QUIET)


PAPER = Paper(
    "mcmahan2016",
    "McMahan et al. 2016: FedAvg on MNIST, rounds to a target",
    "McMahan, Moore, Ramage, Hampson, Agüera y Arcas, *Communication-Efficient Learning of Deep Networks from Decentralized "
    "Data*. 100 clients of 600 images; C is the share of clients a round (0: one client), E local epochs, B batch size; "
    "two shards: most clients hold two digits. As published: networks, data, splits, the monotone interpolated curve. "
    "Different: the paper tunes the learning rate on a fine grid for each cell; here it is the best of a few (0.05 to 0.6).",
    (110, 1200),
    jobs,
    tables,
    differs,
    draw,
    (9.5, 5.0),
)
