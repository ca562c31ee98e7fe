"""A client's data, and the schema that declares what the columns mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.vectors import Array

Missing = Literal["refuse", "drop"]


@dataclass(frozen=True)
class Column:
    """One declared column.

    Attributes:
        name: unique among the columns of its kind.
        unit: the physical unit, for people ("mm Hg", "years").
        low, high: public bounds. A check refuses values outside them; a query that needs the bounds clips to them.
        codes: for a coded column, each allowed value and its meaning.
        missing: what happens where a value is NaN: "refuse" the data set, or "drop" the row.
        description: for people.
    """

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    codes: Mapping[int, str] = field(default_factory=dict)
    missing: Missing = "refuse"
    description: str = ""


@dataclass(frozen=True)
class Schema:
    """What every client's data look like. It is public.

    Attributes:
        features: columns of x, in order (empty for images and text).
        target: the column of y, or None where there is none.
        shape: the shape of one example of x.
        classes: number of classes of y, or None for regression.
        columns: further columns that queries may name.
    """

    features: tuple[Column, ...] = ()
    target: Column | None = None
    shape: tuple[int, ...] = ()
    classes: int | None = None
    columns: tuple[Column, ...] = ()

    def column(self, name: str) -> Column:
        """The column of this name. Raises InvalidInput, listing the declared columns, for an unknown one."""
        target = () if self.target is None else (self.target,)
        known: dict[str, Column] = {c.name: c for c in (*self.features, *target, *self.columns)}
        if name not in known:
            raise InvalidInput(f"No column {name!r} is declared; the schema has: {', '.join(known) or 'no columns'}.")
        return known[name]


@dataclass(frozen=True)
class Examples:
    """Rows of data that stay with their client.

    Attributes:
        x: inputs, [n, ...]; float32, or int64 for characters.
        y: targets, [n] or [n, ...]; int64 for classes, float32 for regression.
        columns: further arrays [n] by name, in their own units, for queries.

    Raises InvalidInput where the arrays differ in their number of rows.
    """

    x: Array
    y: Array
    columns: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {"x": len(self.x), "y": len(self.y), **{name: len(c) for name, c in self.columns.items()}}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InvalidInput(f"All arrays of a data set need the same number of rows; found {found}.")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Array | slice) -> Examples:
        return Examples(self.x[rows], self.y[rows], {name: c[rows] for name, c in self.columns.items()})


@dataclass(frozen=True)
class Client:
    """One holder of data: a hospital, a bank, a phone.

    Attributes:
        name: unique in its federation.
        train: the rows it trains on, at least one; queries look at them too.
        test: the rows it tests on, or None.
    """

    name: str
    train: Examples
    test: Examples | None = None

    def emptied(self) -> Client:
        """The same client without any example. Private training gives noise alone for it."""
        return Client(self.name, self.train[:0], None if self.test is None else self.test[:0])


@dataclass(frozen=True)
class Public:
    """What everyone may know of a population before a study: its schema, and how many clients it has."""

    schema: Schema
    clients: int


class Population(Protocol):
    """Who takes part. `manent.data.Federation` is one; a server's roster of sites is another."""

    @property
    def names(self) -> Sequence[str]:
        """The clients' names, in a fixed order."""
        ...

    @property
    def public(self) -> Public:
        """What everyone may know of it."""
        ...


def join(parts: Sequence[Examples]) -> Examples:
    """All rows of several data sets, one after another. Only a simulation can pool data like this.

    Raises InvalidInput for no data set, and for data sets that differ in columns or in the shape of an example.
    """
    if not parts:
        raise InvalidInput("Nothing to join: expected at least one data set.")
    for kind, found in (
        ("columns", [", ".join(sorted(p.columns)) or "none" for p in parts]),
        ("shape of x", [p.x.shape[1:] for p in parts]),
        ("shape of y", [p.y.shape[1:] for p in parts]),
    ):
        other = next((f for f in found if f != found[0]), None)
        if other is not None:
            raise InvalidInput(f"Data sets that are joined need the same {kind}; found {found[0]} and {other}.")
    return Examples(
        np.concatenate([p.x for p in parts]),
        np.concatenate([p.y for p in parts]),
        {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns},
    )
