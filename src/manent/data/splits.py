"""Splits: rules that deal the rows of one data set to clients. Each is a pure function of (labels, clients, rng).

A split returns one sorted array of row numbers for each client. Together the arrays hold every row exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.vectors import Array

Indices = NDArray[np.int64]


class Split(Protocol):
    """A rule that deals rows to clients.

    Args:
        labels: [n], the rows' classes. A rule that does not look at classes uses only n.
        clients: how many, at least 1.
        rng: decides everything random.

    Returns one sorted array int64 for each client, none of them empty. Raises InvalidInput where the rule cannot be kept.
    """

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Each client's row numbers."""
        ...


@dataclass(frozen=True)
class IID:
    """Random parts, equal in size up to one row."""

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Indices]:
        _check_counts(len(labels), clients)
        return _sorted(np.array_split(rng.permutation(len(labels)), clients))


@dataclass(frozen=True)
class Dirichlet:
    """Shares of labels drawn from a Dirichlet distribution. The smaller alpha is, the more the clients differ.

    Attributes:
        alpha: the concentration, above 0; 0.1 is very skewed, 100 is nearly IID.
        balanced: False deals each class by shares ~ Dir(alpha) over the clients, so their sizes differ too (Yurochkin et al.
            2019, sec. 4). True gives clients of equal size, each with a mix of classes ~ Dir(alpha * prior), where the prior is
            the classes' shares in the data (Hsu et al. 2019, sec. 3). A class that has run out is not dealt any more.
        minimum: the fewest rows of a client. A client that drew fewer takes random rows from the largest.

    Raises InvalidInput for a number out of range or of another type, as all splits here do.
    """

    alpha: float
    balanced: bool = False
    minimum: int = 1

    def __post_init__(self) -> None:
        validate.positive("Dirichlet", "alpha", self.alpha)
        validate.count("Dirichlet", "minimum", self.minimum)

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Indices]:
        _check_counts(len(labels), clients, self.minimum)
        pools = [rng.permutation(rows) for rows in _rows_by_class(labels, "Dirichlet")]
        if self.balanced:
            return _deal_mixes(pools, clients, self.alpha, rng)
        parts: list[list[Indices]] = [[] for _ in range(clients)]
        for rows in pools:
            shares = _dirichlet(np.full(clients, self.alpha), rng)
            cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
            for part, piece in zip(parts, np.split(rows, cuts), strict=True):
                part.append(piece)
        return _topped_up([np.concatenate(part) for part in parts], self.minimum, rng)


@dataclass(frozen=True)
class Shards:
    """Rows are sorted by label and cut into equal shards, which are dealt at random (McMahan et al. 2017, sec. 3).

    Attributes:
        per_client: how many shards each client gets, at least 1.
    """

    per_client: int = 2

    def __post_init__(self) -> None:
        validate.count("Shards", "per_client", self.per_client)

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Indices]:
        validate.count("A split", "clients", clients)
        shards = clients * self.per_client
        if shards > len(labels):
            raise InvalidInput(
                f"{clients} clients with {self.per_client} shards each need {shards} rows; found {len(labels)}. Use fewer shards."
            )
        _check_counts(len(labels), clients)
        pieces = np.array_split(np.concatenate(_rows_by_class(labels, "Shards")), shards)
        dealt = rng.permutation(shards).reshape(clients, self.per_client)
        return _sorted([np.concatenate([pieces[shard] for shard in row]) for row in dealt])


@dataclass(frozen=True)
class LabelSkew:
    """Each client holds rows of a fixed number of classes. Clients with the same class share its rows equally.

    Li et al. 2022, sec. 4.

    Attributes:
        classes_per_client: how many classes each client holds, at least 1.
    """

    classes_per_client: int

    def __post_init__(self) -> None:
        validate.count("LabelSkew", "classes_per_client", self.classes_per_client)

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Indices]:
        _check_counts(len(labels), clients)
        pools = _rows_by_class(labels, "LabelSkew")
        each, classes = self.classes_per_client, len(pools)
        if each > classes:
            raise InvalidInput(f"LabelSkew({each}) needs at least {each} classes; the data have {classes}.")
        if each * clients < classes:
            raise InvalidInput(
                f"{clients} clients with {each} classes each cannot hold all {classes} classes; "
                f"use more clients or classes_per_client."
            )
        owned = _dealt_classes(clients, each, classes, rng)
        parts: list[list[Indices]] = [[] for _ in range(clients)]
        for label, rows in enumerate(pools):
            owners = rng.permutation(np.flatnonzero(owned[:, label]))
            for owner, piece in zip(owners, np.array_split(rng.permutation(rows), len(owners)), strict=True):
                parts[owner].append(piece)
        dealt = [np.concatenate(part) for part in parts]
        if min(len(part) for part in dealt) == 0:
            raise InvalidInput(
                "LabelSkew leaves a client without rows: a class has fewer rows than clients that share it. Use fewer clients."
            )
        return _sorted(dealt)


@dataclass(frozen=True)
class QuantitySkew:
    """Random rows, in parts of unequal size. Give either power or alpha.

    Attributes:
        power: sizes are proportional to rank ** -power, at least 0 (a power law; 0 is equal). Ranks are given at random.
        alpha: sizes are proportional to a draw from Dir(alpha), above 0 (Li et al. 2022, sec. 4).
        minimum: the fewest rows of a client.
    """

    power: float | None = None
    alpha: float | None = None
    minimum: int = 1

    def __post_init__(self) -> None:
        if (self.power is None) == (self.alpha is None):
            raise InvalidInput(f"QuantitySkew needs either power or alpha; found power={self.power}, alpha={self.alpha}.")
        if self.alpha is not None:
            validate.positive("QuantitySkew", "alpha", self.alpha)
        if self.power is not None:
            validate.not_negative("QuantitySkew", "power", self.power)
        validate.count("QuantitySkew", "minimum", self.minimum)

    def __call__(self, labels: Array, clients: int, rng: np.random.Generator) -> list[Indices]:
        _check_counts(len(labels), clients, self.minimum)
        if self.alpha is not None:
            shares = _dirichlet(np.full(clients, self.alpha), rng)
        else:
            weights = np.arange(1, clients + 1, dtype=np.float64) ** -(self.power or 0.0)
            shares = rng.permutation(weights / weights.sum())
        sizes = self.minimum + _whole(shares, len(labels) - clients * self.minimum)
        return _sorted(np.split(rng.permutation(len(labels)), np.cumsum(sizes)[:-1]))


def by_key(keys: Array | Sequence[object]) -> dict[str, Indices]:
    """The natural split: each row goes to the client it belongs to. Returns row numbers by client, sorted by key.

    Args:
        keys: [n], the client's name or number for each row.

    Raises InvalidInput for no rows, for a missing key, for keys of several types, and for different keys that are equal as text.
    """
    array = keys if isinstance(keys, np.ndarray) else np.array(list(keys), object)
    if array.ndim != 1 or len(array) == 0:
        raise InvalidInput(f"Expected a client key for each row, [n]; found shape {array.shape}.")
    if array.dtype.kind == "O":
        missing = [row for row, key in enumerate(array) if key is None or key != key]
    else:
        missing = [int(row) for row in np.flatnonzero(array != array)]
    if missing:
        raise InvalidInput(f"Row {missing[0]} has no client key. Fill it, or leave the row out ({len(missing)} rows lack one).")
    try:
        unique, where = np.unique(array, return_inverse=True)
    except TypeError:
        raise InvalidInput("Client keys are of several types, such as text and numbers; make all of them text.") from None
    order = np.argsort(where, kind="stable").astype(np.int64)
    groups = np.split(order, np.cumsum(np.bincount(where))[:-1])
    named = {str(key): rows for key, rows in zip(unique, groups, strict=True)}
    if len(named) < len(unique):
        raise InvalidInput("Two different client keys are equal as text; rename one.")
    return named


def _check_counts(rows: int, clients: int, minimum: int = 1) -> None:
    validate.count("A split", "clients", clients)
    if rows < clients * minimum:
        raise InvalidInput(f"{clients} clients with at least {minimum} rows each need {clients * minimum} rows; found {rows}.")


def _rows_by_class(labels: Array, split: str) -> list[Indices]:
    """The row numbers of each class that occurs. Raises InvalidInput unless labels are whole numbers [n]."""
    if labels.ndim != 1 or labels.dtype.kind not in "biu":
        raise InvalidInput(
            f"{split} needs one class label a row, whole numbers [n]; found {labels.dtype} of shape {labels.shape}. "
            f"Use IID, QuantitySkew or a natural key."
        )
    return list(by_key(labels).values())


def _sorted(parts: Sequence[Array]) -> list[Indices]:
    return [np.sort(part).astype(np.int64) for part in parts]


def _dirichlet(alpha: Array, rng: np.random.Generator) -> NDArray[np.float64]:
    """One Dirichlet draw. Where alpha is so small that numpy's draw underflows, one share is 1 and the others are 0."""
    draw: NDArray[np.float64] = rng.dirichlet(alpha)
    if not np.isfinite(draw).all() or draw.sum() == 0:
        draw = np.zeros(len(alpha))
        draw[rng.choice(len(alpha), p=alpha / alpha.sum())] = 1.0
    return draw


def _whole(shares: Array, total: int) -> Indices:
    """Whole numbers that add up to total, each less than one away from shares * total (largest remainders)."""
    exact = shares * total
    whole: Indices = np.floor(exact).astype(np.int64)
    short = total - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:short]] += 1
    return whole


def _topped_up(parts: list[Indices], minimum: int, rng: np.random.Generator) -> list[Indices]:
    parts = [rng.permutation(part) for part in parts]
    for index in range(len(parts)):
        while len(parts[index]) < minimum:
            largest = max(range(len(parts)), key=lambda other: len(parts[other]))
            give = min(minimum - len(parts[index]), len(parts[largest]) - minimum)
            parts[index] = np.concatenate([parts[index], parts[largest][:give]])
            parts[largest] = parts[largest][give:]
    return _sorted(parts)


def _deal_mixes(pools: list[Indices], clients: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Parts of equal size. Each client in turn draws a mix of classes, and takes its rows from what is left of them."""
    left = np.array([len(rows) for rows in pools])
    prior = left / left.sum()
    sizes = [len(part) for part in np.array_split(np.arange(left.sum()), clients)]
    parts: list[Indices] = []
    for size in sizes:
        mix, counts = _dirichlet(alpha * prior, rng), np.zeros_like(left)
        while counts.sum() < size:
            open_mix = np.where(left > counts, mix, 0.0)
            if open_mix.sum() <= 0:
                open_mix = (left - counts).astype(np.float64)
            drawn = rng.multinomial(size - counts.sum(), open_mix / open_mix.sum())
            counts = np.minimum(counts + drawn, left)
        parts.append(np.concatenate([rows[n - c : n] for rows, n, c in zip(pools, left, counts, strict=True)]))
        left = left - counts
    return _sorted(parts)


def _dealt_classes(clients: int, each: int, classes: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """bool[clients, classes], which client holds which class. Each takes the classes held least so far; ties are random."""
    owned = np.zeros((clients, classes), np.bool_)
    for client in range(clients):
        held = owned.sum(axis=0)
        owned[client, np.lexsort((rng.random(classes), held))[:each]] = True
    return owned
