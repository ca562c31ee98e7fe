"""Checks that data are what their schema declares. Every error names client, column, row and value, and says what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.examples import Client, Column, Examples, Schema
from manent.core.vectors import Array

Where = Callable[[int], str]  # names the client and the row, for a message, from a row number


def check_schema(schema: Schema) -> None:
    """Raises InvalidInput for a schema that contradicts itself: equal names, low > high, another shape, a label too large."""
    target = () if schema.target is None else (schema.target,)
    for kind, columns in (("features", schema.features), ("target and columns", (*target, *schema.columns))):
        twice = first_repeated([column.name for column in columns])
        if twice is not None:
            raise InvalidInput(f"A schema needs unique names; {twice!r} occurs more than once in its {kind}. Rename one.")
    for column in (*schema.features, *target, *schema.columns):
        if column.low is not None and column.high is not None and not column.low <= column.high:
            raise InvalidInput(f"Column {column.name!r} expects low <= high; found low={column.low:g}, high={column.high:g}.")
    if schema.features and schema.shape != (len(schema.features),):
        raise InvalidInput(
            f"A schema with {len(schema.features)} features needs shape=({len(schema.features)},); found shape={schema.shape}."
        )
    if schema.classes is not None:
        validate.count("A schema", "classes", schema.classes, " or None (regression)", minimum=2)
        _check_codes(schema.classes, schema.target)


def _check_codes(classes: int, target: Column | None) -> None:
    """Raises InvalidInput for a code of the target that is no label of so many classes."""
    for code in () if target is None else target.codes:
        if not 0 <= code < classes:
            raise InvalidInput(f"The target declares code {code}, but labels go from 0 to {classes - 1}.")


def first_repeated(names: Sequence[str]) -> str | None:
    """The first name that occurs a second time; None where all are different."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def checked_client(client: Client, schema: Schema) -> Client:
    """The client, without the rows that the schema lets drop. Raises InvalidInput for any data that the schema does not allow."""
    if not client.name:
        raise InvalidInput("Every client needs a name; found an empty one.")
    train = checked_part(client.train, schema, client.name, "train")
    test = None if client.test is None else checked_part(client.test, schema, client.name, "test")
    if train is client.train and test is client.test:
        return client
    return Client(client.name, train, test)


def checked_part(data: Examples, schema: Schema, owner: str, part: str) -> Examples:
    """One part of a client's data, without the rows that the schema lets drop.

    Args:
        owner: the client's name, for the message.
        part: "train" or "test", for the message.

    Raises InvalidInput for data that the schema does not allow, and where no row is left.
    """
    if len(data) == 0:
        raise InvalidInput(
            f"Client {owner!r} has no {part} rows. Leave the client out{', or give test=None' if part == 'test' else ''}."
        )
    check_form(data, schema, f"Client {owner!r}, {part}")
    kept = complete_rows(data, schema)
    if not kept.any():
        raise InvalidInput(
            f"Client {owner!r}: every {part} row lacks a value in a column with missing='drop', so no row is left. "
            f"Leave the client out, or fill the values."
        )
    rows = np.flatnonzero(kept)
    left = data if kept.all() else data[rows]
    check_values(left, schema, lambda row: f"Client {owner!r}, {part} row {rows[row]}")
    return left


def check_form(data: Examples, schema: Schema, where: str) -> None:
    """Raises InvalidInput for types, shapes or columns other than the schema declares. `where` names the data in the message."""
    if data.x.dtype not in (np.float32, np.int64):
        raise InvalidInput(
            f"{where}: x has type {data.x.dtype}; expected float32 (numbers) or int64 (characters). "
            f"Use x.astype('float32'), or a from_... constructor, which converts."
        )
    if data.x.shape[1:] != schema.shape:
        raise InvalidInput(
            f"{where}: one example of x has shape {data.x.shape[1:]}; the schema declares {schema.shape}. "
            f"Reshape x, or declare Schema(shape={data.x.shape[1:]})."
        )
    wanted, kind = ("float32", "regression") if schema.classes is None else ("int64", f"{schema.classes} classes")
    if data.y.dtype != np.dtype(wanted):
        raise InvalidInput(
            f"{where}: y has type {data.y.dtype}; a schema for {kind} expects {wanted}. Use y.astype('{wanted}'), "
            f"or declare {'the number of classes' if schema.classes is None else 'classes=None'}."
        )
    declared = {column.name for column in schema.columns}
    for name in sorted(declared ^ set(data.columns)):
        problem, cure = ("is declared but absent", "Add it to columns") if name in declared else ("is not declared", "Declare it")
        raise InvalidInput(f"{where}: column {name!r} {problem}. {cure}, or remove it.")
    for name, values in data.columns.items():
        if values.ndim != 1 or values.dtype.kind not in "biuf":
            raise InvalidInput(
                f"{where}: column {name!r} has type {values.dtype} and shape {values.shape}; expected one number a row. "
                f"Give categories as whole numbers, with their meaning in Column(codes=...)."
            )


def complete_rows(data: Examples, schema: Schema) -> NDArray[np.bool_]:
    """bool[n], whether a row has a value in every column with missing='drop'."""
    kept = np.ones(len(data), np.bool_)
    for column, values in _declared(data, schema):
        if column.missing == "drop" and values.dtype.kind == "f":
            kept &= ~np.isnan(values).reshape(len(data), -1).any(axis=1)
    return kept


def check_values(data: Examples, schema: Schema, where: Where) -> None:
    """Raises InvalidInput for values that are missing, not finite, or outside what is declared.

    Args:
        where: names the client and the row, for the message, from a row number of `data`.
    """
    for column, values in _declared(data, schema):
        _check_column(column, values, where)
    if not schema.features:
        _check_finite("x", data.x, where)
    if schema.target is None:
        _check_finite("y", data.y, where)
    if schema.classes is not None:
        name = "y" if schema.target is None else schema.target.name
        wrong = (data.y < 0) | (data.y >= schema.classes)
        _refuse(
            wrong,
            data.y,
            name,
            where,
            f"is not a label from 0 to {schema.classes - 1}. Number the classes from 0, or declare classes={data.y.max() + 1}.",
        )


def _declared(data: Examples, schema: Schema) -> Iterator[tuple[Column, Array]]:
    for index, column in enumerate(schema.features):
        yield column, data.x[:, index]
    if schema.target is not None:
        yield schema.target, data.y
    for column in schema.columns:
        yield column, data.columns[column.name]


def _check_column(column: Column, values: Array, where: Where) -> None:
    _check_finite(column.name, values, where, f", or declare Column({column.name!r}, missing='drop')")
    if column.codes:
        known = ", ".join(f"{code} ({meaning})" for code, meaning in column.codes.items())
        _refuse(
            ~np.isin(values, list(column.codes)),
            values,
            column.name,
            where,
            f"is not a declared code. Expected {known}. Recode it, or add it to Column(codes=...).",
        )
    unit = f" {column.unit}" if column.unit else ""
    if column.low is not None:
        words = f"is below the lowest value declared, {column.low:g}{unit}. Correct the value, or widen the bound."
        _refuse(values < column.low, values, column.name, where, words)
    if column.high is not None:
        words = f"is above the highest value declared, {column.high:g}{unit}. Correct the value, or widen the bound."
        _refuse(values > column.high, values, column.name, where, words)


def _check_finite(name: str, values: Array, where: Where, also: str = "") -> None:
    if values.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        # If the sum is finite, so are its terms, and no array of truth values is needed. An overflow only takes the slow path.
        if np.isfinite(values.sum(dtype=np.float64)):
            return
    _refuse(~np.isfinite(values), values, name, where, f"is missing or infinite. Fill it or leave the row out{also}.")


def _refuse(wrong: Array, values: Array, name: str, where: Where, words: str) -> None:
    """Raises InvalidInput, naming the first row where `wrong` [n, ...] is true, and counting the others; if there is any."""
    if not wrong.any():
        return
    rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
    position = tuple(int(i) for i in np.argwhere(wrong)[0])
    inside = f" at {position[1:]}" if len(position) > 1 else ""
    more = f" ({len(rows) - 1} more such row{'s' if len(rows) > 2 else ''} after it.)" if len(rows) > 1 else ""
    raise InvalidInput(f"{where(position[0])}, column {name!r}{inside}: value {float(values[position]):g} {words}{more}")
