"""What all queries of a declared column share."""

from __future__ import annotations

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.examples import Client, Column
from manent.core.vectors import Array


def bounded(column: Column, query: str) -> tuple[float, float]:
    """The column's public bounds (low, high). Raises InvalidInput where it does not declare both, with low < high."""
    if column.low is None or column.high is None or not column.low < column.high:
        raise InvalidInput(
            f"{query} needs public bounds low < high for column {column.name!r}; the schema has low={column.low}, "
            f"high={column.high}. Declare them from what is publicly known, not from the data."
        )
    return column.low, column.high


def values(client: Client, name: str) -> Array:
    """float64[n], a client's values of a column in all its rows, without NaN. Raises InvalidInput for an unknown column."""
    parts = [client.train] if client.test is None else [client.train, client.test]
    for part in parts:
        if name not in part.columns:
            raise InvalidInput(
                f"Client {client.name!r} has no column {name!r}; it has: {', '.join(part.columns) or 'no columns'}."
            )
    column = np.concatenate([np.asarray(part.columns[name], np.float64) for part in parts])
    present: Array = column[~np.isnan(column)]
    return present
