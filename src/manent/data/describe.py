"""The description of a federation, for people who plan a study: sizes, labels, base rates, how much clients differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from manent.core.examples import Client, Schema
from manent.core.randomness import repeatable
from manent.core.vectors import Array
from manent.data.drawing import draw
from manent.data.facts import Facts, Labels, Numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group

LISTED = 20
"""Up to so many clients are listed one by one. More are summarised."""
CHANCE_DEALS = 5
"""How often the rows are dealt at random, to find how much clients differ by chance."""


@dataclass(frozen=True, repr=False)
class Description(Facts):
    """The facts of a federation. `print` it for a table; `plot` draws it. The attributes are those of `Facts`."""

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=StringIO(), width=120, color_system=None)
        console.print(self.__rich__())
        return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]

    __repr__ = __str__

    def __rich__(self) -> Group:
        from rich import box
        from rich.console import Group
        from rich.table import Table

        header, rows = self.table()
        table = Table(box=box.SIMPLE_HEAD)
        for index, column in enumerate(header):
            table.add_column(column, justify="left" if index == 0 else "right")
        for index, row in enumerate(rows):
            table.add_row(*row, end_section=len(self.clients) <= LISTED and index == len(rows) - 2)
        return Group(self._title(), table, *self._notes())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows, as text. Up to 20 clients have a row each, and one for all. For more, each quantity has a row."""
        return _listed(self) if len(self.clients) <= LISTED else _summarised(self)

    def plot(self, path: str | None = None) -> Figure:
        """Draws it, and saves it where a path is given (format by its ending). Raises MissingExtra without matplotlib."""
        return draw(self, path)

    def _title(self) -> str:
        count = len(self.clients)
        rows = (
            f"{self.train.sum():,} train and {self.test.sum():,} test rows" if self.test.any() else f"{self.train.sum():,} rows"
        )
        return f"{self.name}: {count:,} client{'' if count == 1 else 's'}, {rows}"

    def _notes(self) -> list[str]:
        chance = f"{self.by_chance:.3f} if the same rows were dealt at random."
        if isinstance(self.target, Numbers):
            return [f"Heterogeneity {self.heterogeneity:.3f}: share of the target's variance between clients; {chance}"]
        notes = [f"Heterogeneity {self.heterogeneity:.3f}: mean distance (total variation) to the pooled labels; {chance}"]
        if len(self.clients) <= LISTED and _numbered(self.target.names):
            notes.append(f"Labels: {', '.join(f'{label} {name}' for label, name in enumerate(self.target.names))}.")
        return notes


def describe(name: str, clients: Sequence[Client], schema: Schema) -> Description:
    """Describes these clients, whose data fit the schema. The chance deals are repeatable."""
    targets = [np.concatenate([c.train.y, *([] if c.test is None else [c.test.y])]) for c in clients]
    if schema.classes is None:
        target, heterogeneity, by_chance = _numbers(targets, schema)
    else:
        target, heterogeneity, by_chance = _labels(targets, schema.classes, schema)
    return Description(
        name,
        tuple(client.name for client in clients),
        np.array([len(client.train) for client in clients], np.int64),
        np.array([0 if client.test is None else len(client.test) for client in clients], np.int64),
        target,
        heterogeneity,
        by_chance,
    )


def _labels(targets: Sequence[Array], classes: int, schema: Schema) -> tuple[Labels | Numbers, float, float]:
    codes = {} if schema.target is None else schema.target.codes
    names = tuple(codes.get(label, str(label)) for label in range(classes))
    labels = Labels(np.stack([np.bincount(y.reshape(-1), minlength=classes) for y in targets]), names)
    everything = np.concatenate(targets)
    owner = np.repeat(np.arange(len(targets)), [len(y) for y in targets])
    rng, chance = repeatable(0, "describe"), []
    for _ in range(CHANCE_DEALS):
        cells = rng.permutation(owner).reshape(-1, *[1] * (everything.ndim - 1)) * classes + everything
        dealt = np.bincount(cells.reshape(-1), minlength=len(targets) * classes).reshape(len(targets), classes)
        chance.append(_mean_distance(Labels(dealt, names)))
    return labels, _mean_distance(labels), float(np.mean(chance))


def _mean_distance(labels: Labels) -> float:
    return float(np.average(labels.distances, weights=labels.counts.sum(axis=1)))


def _numbers(targets: Sequence[Array], schema: Schema) -> tuple[Labels | Numbers, float, float]:
    flat = [y.reshape(-1).astype(np.float64) for y in targets]
    sizes, mean = np.array([len(y) for y in flat]), np.array([y.mean() for y in flat])
    pooled = np.concatenate(flat)
    total = float(((pooled - pooled.mean()) ** 2).sum())
    between = float((sizes * (mean - pooled.mean()) ** 2).sum())
    numbers = Numbers(
        mean, np.array([y.std() for y in flat]), float(pooled.mean()), "" if schema.target is None else schema.target.unit
    )
    return numbers, between / total if total > 0 else 0.0, (len(flat) - 1) / max(len(pooled) - 1, 1)


def _listed(facts: Facts) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table of clients; the last row is all of them."""
    header, columns = ["client", "train"], [[*facts.clients, "all"], _with_total(facts.train)]
    if facts.test.any():
        header, columns = [*header, "test"], [*columns, _with_total(facts.test)]
    more, further = _number_columns(facts.target) if isinstance(facts.target, Numbers) else _label_columns(facts.target)
    return header + more, [list(row) for row in zip(*columns, *further, strict=True)]


def _number_columns(target: Numbers) -> tuple[list[str], list[list[str]]]:
    """Header and columns of a target that is a number."""
    unit = f" ({target.unit})" if target.unit else ""
    means = [f"{value:.4g}" for value in [*target.mean, target.pooled_mean]]
    return [f"target mean{unit}", "sd"], [means, [*(f"{value:.4g}" for value in target.sd), ""]]


def _label_columns(target: Labels) -> tuple[list[str], list[list[str]]]:
    """Header and columns of a target that is a label, by how many there are."""
    if len(target.names) == 2:
        header = [target.names[1], "base rate"]
        rates = [f"{share:.1%}" for share in [*target.shares[:, 1], target.pooled[1]]]
        columns = [_with_total(target.counts[:, 1]), rates]
    elif len(target.names) <= 10:
        header = [str(label) for label in range(len(target.names))] if _numbered(target.names) else list(target.names)
        columns = [_with_total(target.counts[:, label]) for label in range(len(target.names))]
    else:
        shares = np.vstack([target.shares, target.pooled])
        header = ["classes", "most common"]
        columns = [[str(int(n)) for n in (shares > 0).sum(axis=1)], [_top(share, target.names) for share in shares]]
    return [*header, "distance"], [*columns, [*(f"{distance:.3f}" for distance in target.distances), ""]]


def _numbered(names: tuple[str, ...]) -> bool:
    """Whether the names are too long for the head of a table, so that numbers stand there and the names below it."""
    return 2 < len(names) <= 10 and sum(map(len, names)) > 40


def _with_total(counts: Array) -> list[str]:
    return [f"{int(count):,}" for count in [*counts, counts.sum()]]


def _top(shares: Array, names: tuple[str, ...]) -> str:
    label = int(shares.argmax())
    return f"{shares[label]:.0%} {names[label]!r}"


def _summarised(facts: Facts) -> tuple[list[str], list[list[str]]]:
    rows = [_spread("train rows", facts.train, ",.0f")]
    if facts.test.any():
        rows.append(_spread("test rows", facts.test, ",.0f"))
    target = facts.target
    if isinstance(target, Numbers):
        unit = f" ({target.unit})" if target.unit else ""
        rows += [_spread(f"target mean{unit}", target.mean, ".4g"), _spread(f"target sd{unit}", target.sd, ".4g")]
    else:
        if len(target.names) == 2:
            rows.append(_spread(f"base rate of {target.names[1]}", target.shares[:, 1], ".1%"))
        else:
            rows.append(_spread(f"classes held, of {len(target.names)}", (target.counts > 0).sum(axis=1), ",.0f"))
            rows.append(_spread("share of the commonest class", target.shares.max(axis=1), ".1%"))
        rows.append(_spread("distance to pooled labels", target.distances, ".3f"))
    return ["per client", "least", "5%", "median", "95%", "most", "mean"], rows


def _spread(name: str, values: Array, form: str) -> list[str]:
    return [name, *(f"{value:{form}}" for value in (*np.quantile(values, [0, 0.05, 0.5, 0.95, 1]), values.mean()))]
