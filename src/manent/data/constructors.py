"""Federations from arrays, data frames, torch data sets, CSV and Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput, MissingExtra
from manent.core.examples import Client, Column, Examples, Schema
from manent.core.randomness import repeatable
from manent.core.vectors import Array
from manent.data.checks import check_form, check_schema, check_values, complete_rows
from manent.data.federation import Federation
from manent.data.splits import IID, Indices, Split, by_key

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]


@dataclass(frozen=True)
class Deal:
    """An order of rows in which each client's train rows, and after them its test rows, lie side by side.

    Attributes:
        order: int64[n], row numbers. Once the rows are put in this order, every client's part is a view.
        parts: for each client in order: its name, how many train rows, how many test rows.
    """

    order: Indices
    parts: tuple[tuple[str, int, int], ...]

    def clients(self, data: Examples) -> tuple[Client, ...]:
        """The clients, as views of `data`, whose rows must already be in this order."""
        clients, start = [], 0
        for name, train, test in self.parts:
            middle, end = start + train, start + train + test
            clients.append(Client(name, data[start:middle], data[middle:end] if test else None))
            start = end
        return tuple(clients)


def deal(groups: Mapping[str, Indices], test_fraction: float, seed: int) -> Deal:
    """Cuts each client's rows into a train part and a random test part. Both keep the order of the rows.

    Args:
        groups: each client's row numbers, by its name.
        test_fraction: the test part has round(test_fraction * rows) rows, but at least one row stays for training.
        seed: decides which rows are for testing.

    Raises InvalidInput unless 0 <= test_fraction < 1.
    """
    validate.fraction("A federation", "test_fraction", test_fraction, one=False)
    pieces, parts = [], []
    for name, rows in groups.items():
        test = min(round(len(rows) * test_fraction), len(rows) - 1)
        chosen = np.zeros(len(rows), np.bool_)
        if test:
            chosen[repeatable(seed, "test part", name).choice(len(rows), test, replace=False)] = True
        pieces += [rows[~chosen], rows[chosen]]
        parts.append((name, len(rows) - test, test))
    return Deal(np.concatenate(pieces), tuple(parts))


def groups_of(labels: Array, clients: int, split: Split | None, seed: int) -> dict[str, Indices]:
    """The row numbers of artificial clients "client-0", "client-1", ..., by a split (IID if None), with the split's errors."""
    validate.count("A federation", "clients", clients)
    parts = (split or IID())(labels, clients, repeatable(seed, "split"))
    width = len(str(clients - 1))
    return {f"client-{index:0{width}}": rows for index, rows in enumerate(parts)}


def from_arrays(
    x: Array,
    y: Array,
    *,
    by: Array | Sequence[object] | None = None,
    clients: int | None = None,
    split: Split | None = None,
    columns: Mapping[str, Array] | None = None,
    schema: Schema | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    test: Examples | None = None,
    name: str = "arrays",
) -> Federation:
    """A federation from arrays. The rows are copied into order once, and the clients hold views of that copy.

    Args:
        x: [n, ...]. Whole numbers stay whole (int64, read as characters) unless the schema declares features. All other numbers
            become float32.
        y: [n] or [n, ...]. Whole numbers are classes (int64). Other numbers are values to predict (float32), unless the schema
            declares classes.
        by: [n], the client that each row belongs to. Give this or `clients`.
        clients: how many artificial clients to deal the rows to.
        split: the rule by which they are dealt; IID where not given.
        columns: further arrays [n], by name, that queries may use.
        schema: what the data must be. None infers shape and number of classes from all rows, which only a simulation may do.
        test_fraction: the share of each client's rows kept for testing, in [0, 1).
        seed: decides the split and the test rows.
        test: public test examples that the server holds.
        name: the federation's name, for people.

    Raises InvalidInput for anything that does not fit, naming the row as it is counted in `x`.
    """
    targets, lacking = _targets(y, schema)
    data = Examples(_numbers(x, schema), targets, {n: np.asarray(c) for n, c in (columns or {}).items()})
    if schema is None:
        schema = infer(data)
    if (by is None) == (clients is None):
        raise InvalidInput("Give either by (the client of each row), or clients (how many) and perhaps a split.")
    if by is not None:
        if split is not None:
            raise InvalidInput(
                "A split deals rows to artificial clients, but with by each row already has a client. Remove one of them."
            )
        groups, owners = by_key(by), np.asarray(by, object)
        if len(owners) != len(data):
            raise InvalidInput(f"by needs a client for each of the {len(data)} rows; found {len(owners)}.")
    else:
        groups, owners = groups_of(data.y, clients or 0, split, seed), None
    groups = _checked_rows(data, schema, groups, owners, lacking)
    dealt = deal(groups, test_fraction, seed)
    return Federation(dealt.clients(data[dealt.order]), schema, name, test)


def from_frame(
    frame: pd.DataFrame,
    *,
    by: str,
    target: str,
    features: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    schema: Schema | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str = "frame",
) -> Federation:
    """A federation from a pandas data frame with a client column.

    Args:
        frame: one row for each example.
        by: the name of the column that says which client a row belongs to.
        target: the column to predict. Text becomes classes, by the codes of the schema's target, or else in alphabetical order.
        features: the columns of x. None takes the schema's features, or else all columns but `by`, `target` and `columns`.
        columns: further columns that queries may use. Where the schema declares columns, those are used instead.
        schema: declares units, bounds, codes and the rule for missing values. None infers names, shape and classes.
        test_fraction, seed, name: as in `from_arrays`.

    Raises InvalidInput for a missing column, text where numbers are expected, or a value that the schema does not allow.
    """
    columns = [c.name for c in schema.columns] if schema is not None and schema.columns else list(columns)
    if features is None:
        given = () if schema is None else schema.features
        features = [c.name for c in given] or [c for c in frame.columns if c not in {by, target, *columns}]
    _check_columns(frame, by, target, features, columns)
    declared = {c.name: c for c in (*schema.features, *schema.columns)} if schema is not None else {}
    x = np.stack([_numeric(frame[c], declared.get(c)) for c in features], axis=1).astype(np.float32)
    y, codes = _labels(frame[target], schema)
    further = {c: _numeric(frame[c], declared.get(c)) for c in columns}
    if schema is None:
        found = infer(Examples(x, y, further))
        names = tuple(Column(str(c)) for c in features)
        schema = replace(found, features=names, shape=(len(names),), target=Column(target, codes=codes))
    return from_arrays(
        x, y, by=_client_names(frame[by]), columns=further, schema=schema, test_fraction=test_fraction, seed=seed, name=name
    )


def _client_names(column: pd.Series) -> Array:
    """The client of each row: whole numbers as they are, everything else as text."""
    return column.to_numpy() if column.dtype.kind in "biu" else column.astype(str).to_numpy(object)


def _check_columns(frame: pd.DataFrame, by: str, target: str, features: Sequence[str], columns: Sequence[str]) -> None:
    """Raises InvalidInput for a column that is missing, no feature at all, and rows that name no client."""
    for column in (by, target, *features, *columns):
        if column not in frame.columns:
            raise InvalidInput(f"No column {column!r} in the data; it has {', '.join(map(str, frame.columns))}.")
    if not features:
        raise InvalidInput("No feature column is left beside the client and target columns; name some with features=.")
    lacking = np.flatnonzero(frame[by].isna().to_numpy())
    if len(lacking):
        raise InvalidInput(
            f"Column {by!r}, row {lacking[0]}: no client is named ({len(lacking)} such rows). Fill it, or leave the rows out."
        )


def from_csv(
    path: str | Path,
    *,
    by: str,
    target: str,
    features: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    schema: Schema | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str | None = None,
) -> Federation:
    """A federation from a CSV file with a header line and a client column; arguments as in `from_frame`.

    Raises MissingExtra without pandas, InvalidInput for a file that cannot be read.
    """
    frame = _read(path, "csv")
    return from_frame(
        frame,
        by=by,
        target=target,
        features=features,
        columns=columns,
        schema=schema,
        test_fraction=test_fraction,
        seed=seed,
        name=name or Path(path).stem,
    )


def from_parquet(
    path: str | Path,
    *,
    by: str,
    target: str,
    features: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    schema: Schema | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str | None = None,
) -> Federation:
    """A federation from a Parquet file (or folder of them) with a client column; arguments as in `from_frame`.

    Raises MissingExtra without pandas and pyarrow, InvalidInput for a file that cannot be read.
    """
    frame = _read(path, "parquet")
    return from_frame(
        frame,
        by=by,
        target=target,
        features=features,
        columns=columns,
        schema=schema,
        test_fraction=test_fraction,
        seed=seed,
        name=name or Path(path).stem,
    )


def from_torch(
    dataset: Any,
    *,
    by: Array | Sequence[object] | None = None,
    clients: int | None = None,
    split: Split | None = None,
    schema: Schema | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str = "torch",
) -> Federation:
    """A federation from a torch data set of pairs (x, y), or anything else with a length and items.

    Each item is read once, so random transforms are applied once. The other arguments are those of `from_arrays`. Raises
    InvalidInput, naming the item, where an item is no pair or differs in shape from the first, and as `from_arrays`.
    """
    size = len(dataset)
    if size == 0:
        raise InvalidInput("The torch data set is empty; a federation needs rows.")
    first = _item(dataset, 0)
    arrays = [np.empty((size, *part.shape), part.dtype) for part in first]
    for index in range(size):
        for array, part in zip(arrays, _item(dataset, index), strict=True):
            if part.shape != array.shape[1:]:
                raise InvalidInput(
                    f"Item {index} of the torch data set has shape {part.shape}, the first {array.shape[1:]}; "
                    f"crop or pad items to one shape."
                )
            array[index] = part
    return from_arrays(
        arrays[0],
        arrays[1],
        by=by,
        clients=clients,
        split=split,
        schema=schema,
        test_fraction=test_fraction,
        seed=seed,
        name=name,
    )


def infer(data: Examples) -> Schema:
    """The schema that these rows fit: their shape, their columns, and the number of classes (at least 2) where y is whole."""
    classes = None
    if data.y.dtype == np.int64:
        classes = max(int(data.y.max()) + 1, 2) if len(data) else 2
    return Schema(shape=data.x.shape[1:], classes=classes, columns=tuple(Column(name) for name in data.columns))


def _checked_rows(
    data: Examples, schema: Schema, groups: dict[str, Indices], owners: Array | None, lacking: Array
) -> dict[str, Indices]:
    """The groups without the rows to drop, once all rows are checked. Errors count rows as the caller does."""
    check_schema(schema)
    check_form(data, schema, "All clients")
    kept = complete_rows(data, schema) & ~lacking
    rows = np.flatnonzero(kept)

    def where(row: int) -> str:
        of_all = int(rows[row])
        return f"Row {of_all}" if owners is None else f"Client {str(owners[of_all])!r}, row {of_all}"

    check_values(data if kept.all() else data[rows], schema, where)
    if kept.all():
        return groups
    left = {name: part[kept[part]] for name, part in groups.items()}
    bare = [name for name, part in left.items() if len(part) == 0]
    if bare:
        raise InvalidInput(f"Client {bare[0]!r}: every row lacks a value in a column with missing='drop'. Leave the client out.")
    return left


def _numbers(values: Array, schema: Schema | None) -> Array:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise InvalidInput(
            f"x has type {array.dtype} and shape {array.shape}; expected numbers [n, ...]. Encode text as numbers."
        )
    whole = array.dtype.kind in "iu" and not (schema is not None and schema.features)
    with np.errstate(over="ignore"):
        return array.astype(np.int64 if whole else np.float32, copy=False)


def _targets(values: Array, schema: Schema | None) -> tuple[Array, Array]:
    """y in its declared type; and bool[n], which rows lack a label and may be dropped."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise InvalidInput(f"y has type {array.dtype} and shape {array.shape}; expected numbers [n, ...]. Number classes from 0.")
    lacking = np.zeros(len(array), np.bool_)
    if array.dtype.kind != "f":
        return array.astype(np.float32 if schema is not None and schema.classes is None else np.int64, copy=False), lacking
    if schema is None or schema.classes is None:
        return array.astype(np.float32, copy=False), lacking
    if schema.target is not None and schema.target.missing == "drop":
        lacking = np.isnan(array).reshape(len(array), -1).any(axis=1)
    broken = np.flatnonzero((array != np.round(array)).reshape(len(array), -1).any(axis=1) & ~lacking)
    if len(broken):
        raise InvalidInput(
            f"Row {broken[0]}: y is {array[broken[0]]}; a schema with classes expects labels, whole numbers from 0. "
            f"Correct it, leave the row out, or declare the target with missing='drop'."
        )
    return np.where(lacking.reshape(-1, *[1] * (array.ndim - 1)), 0, array).astype(np.int64), lacking


def _numeric(series: pd.Series[Any], column: Column | None) -> Array:
    """A frame's column as float64[n]. Text becomes the declared codes. Raises InvalidInput for text without a code."""
    if series.dtype.kind in "biuf":
        plain: Array = series.to_numpy(np.float64, na_value=np.nan)
        return plain
    values = series.to_numpy(object)
    codes = {} if column is None else {meaning: code for code, meaning in column.codes.items()}
    numbers: Array = np.empty(len(values))
    for row, (value, missing) in enumerate(zip(values, series.isna(), strict=True)):
        if missing:
            numbers[row] = np.nan
        elif value in codes:
            numbers[row] = codes[value]
        elif isinstance(value, int | float):
            numbers[row] = value
        else:
            known = f"one of {', '.join(codes)}" if codes else "a number"
            raise InvalidInput(
                f"Column {series.name!r}, row {row}: expected {known}, found {value!r}. "
                f"Declare its codes in the schema, turn it into numbers, or leave it out with features=."
            )
    return numbers


def _labels(series: pd.Series[Any], schema: Schema | None) -> tuple[Array, dict[int, str]]:
    """The target as an array; and, where it is text without a schema, the codes that were made for it."""
    if schema is not None:
        return _numeric(series, schema.target), {}
    if series.dtype.kind in "iub":
        return series.to_numpy(np.int64), {}
    if series.dtype.kind == "f":
        return series.to_numpy(np.float64, na_value=np.nan), {}
    lacking = np.flatnonzero(series.isna().to_numpy())
    if len(lacking):
        raise InvalidInput(
            f"Column {series.name!r}, row {lacking[0]}: the target is missing. Leave the row out, or declare a schema."
        )
    unique, labels = np.unique(series.astype(str).to_numpy(object).astype(str), return_inverse=True)
    return labels.astype(np.int64), {code: str(meaning) for code, meaning in enumerate(unique)}


def _read(path: str | Path, kind: str) -> pd.DataFrame:
    try:
        import pandas as pd  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise MissingExtra("pandas", "data", f"Reading a {kind} file") from None
    if not Path(path).exists():
        raise InvalidInput(f"No file {str(path)!r}; check the path.")
    try:
        return pd.read_csv(path) if kind == "csv" else pd.read_parquet(path)
    except ImportError:
        raise MissingExtra("pyarrow", "data", "Reading a Parquet file") from None
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{str(path)!r} could not be read as {kind}: {error}") from error


def _item(dataset: Any, index: int) -> tuple[Array, Array]:
    item = dataset[index]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InvalidInput(f"Item {index} of the torch data set must be a pair (x, y); found {type(item).__name__}.")
    parts = [part.detach().cpu().numpy() if hasattr(part, "detach") else np.asarray(part) for part in item]
    return parts[0], parts[1]
