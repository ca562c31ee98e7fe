"""Checks of a client's data that every model makes before it computes with them. Each raises InvalidInput."""

from __future__ import annotations

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.examples import Examples
from manent.core.metrics import Task
from manent.core.vectors import Array


def check_features(x: Array, features: int, where: str) -> None:
    """Raises InvalidInput unless x is a finite float32[n, features] with at least one row. `where` names the data."""
    check_rows(x, where)
    if x.ndim != 2 or x.shape[1] != features:
        raise InvalidInput(
            f"{where}: the model takes {features} features, x of shape (rows, {features}); found shape {x.shape}. "
            f"Change the model's features or the columns of x."
        )
    check_numbers("x", x, where)


def check_rows(x: Array, where: str) -> None:
    """Raises InvalidInput where there are no rows."""
    if len(x) == 0:
        raise InvalidInput(f"{where}: there are no rows; a client needs at least one example. Leave empty clients out.")


def check_numbers(name: str, values: Array, where: str) -> None:
    """Raises InvalidInput unless the values are float32 and finite; the message names the first row that is not."""
    if values.dtype != np.float32:
        raise InvalidInput(f"{where}: {name} must be float32; found {values.dtype}. Use {name}.astype(np.float32).")
    if not np.isfinite(values.sum(dtype=np.float64)):
        # A sum of float32 numbers in float64 is finite only if every term is.
        row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
        raise InvalidInput(f"{where}: {name} holds NaN or infinity (first in row {row}); drop or fill such rows.")


def check_targets(data: Examples, kind: Task, classes: int, where: str) -> None:
    """Raises InvalidInput unless y holds labels from 0 to classes - 1, or finite float32 numbers for regression."""
    y = data.y
    if kind == "regression":
        check_numbers("y", y, where)
        return
    if y.dtype.kind not in "iu":
        raise InvalidInput(f"{where}: labels must be whole numbers (int64); found {y.dtype}. Use y.astype(np.int64).")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        cure = "" if kind == "binary" else f", or declare classes={high + 1}" if low >= 0 else ""
        raise InvalidInput(
            f"{where}: labels must lie in 0 to {classes - 1} for {classes} classes; found {wrong}. Recode the labels{cure}."
        )


def check_single_targets(data: Examples, where: str) -> None:
    """Raises InvalidInput unless y has shape [n], one target for each row."""
    if data.y.ndim != 1:
        raise InvalidInput(f"{where}: y must hold one target a row, shape (rows,); found {data.y.shape}. Use y.reshape(-1).")
