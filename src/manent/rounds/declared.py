"""From a study's plain data back to the study, without running its code.

Algorithms, layers, summations and budgets become manent's own classes again, by the table in `wire_types`. A model that numpy
computes becomes itself. Every other model becomes a `DeclaredModel`, which knows what the model says of itself: that is all that
`privacy.check.resolve` asks.
"""

from __future__ import annotations

import re
import typing
from collections import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import numpy as np

from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput, Refused
from manent.core.examples import Examples, Public, Schema
from manent.core.metrics import Scored
from manent.core.metrics import Task as Kind
from manent.core.protocols import AlgorithmTraits, Model, traits
from manent.core.study import Study
from manent.core.training import LocalTraining, Trained
from manent.core.vectors import Array, Layout, Vector
from manent.data.checks import check_schema, first_repeated
from manent.rounds.strict import check_depth, options, read, shown
from manent.rounds.wire_types import BUILT_IN

MOST_ROUNDS = 100_000
MOST_STEPS = 1_000_000
MOST_BINS = 1 << 20
MOST_PARAMETERS = 1 << 40
_CODE = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True, eq=False)
class DeclaredModel:
    """A model as its plain data describe it. It computes nothing: its code runs elsewhere, and what comes from there is checked.

    Attributes:
        document: the plain data. `to_plain` gives them back, so the study keeps its hash.
        layout, kind, classes: as in `core.protocols.Model`, read from the plain data.

    `train`, `gradient`, `evaluate`, `clipped_gradient_sum` and `check` raise InvalidInput.
    """

    document: Mapping[str, Any]
    layout: Layout
    kind: Kind
    classes: int

    def init(self, rng: np.random.Generator) -> Vector:
        """Zeros [d], read-only and in next to no memory; only the model's own code can draw its first weights."""
        return np.broadcast_to(np.zeros((), np.float32), (self.layout.size,))

    def check_private(self) -> None:
        """Raises Refused for a model that keeps statistics of its batches. Other faults are left to its own code to find."""
        if "statistics" in self.layout:
            raise Refused(
                f"The model {shown(self.document['type'])} keeps statistics of its batches, which mixes their examples: no "
                f"gradient belongs to one example. With DPSGD use GroupNorm or LayerNorm instead."
            )

    def train(self, works: Sequence[LocalTraining], data: Sequence[Examples]) -> Sequence[Trained]:
        """Raises InvalidInput: there is no code."""
        self._without_code()

    def gradient(self, vector: Vector, data: Examples) -> Vector:
        """Raises InvalidInput: there is no code."""
        self._without_code()

    def evaluate(self, vector: Vector, data: Examples) -> Scored:
        """Raises InvalidInput: there is no code."""
        self._without_code()

    def clipped_gradient_sum(self, vector: Vector, data: Examples, clip_norm: float) -> tuple[Array, float]:
        """Raises InvalidInput: there is no code."""
        self._without_code()

    def check(self, data: Examples, where: str) -> None:
        """Raises InvalidInput: there is no code."""
        self._without_code()

    def to_plain(self) -> dict[str, Any]:
        """The plain data that it was read from, with its type."""
        return dict(self.document)

    def _without_code(self) -> NoReturn:
        raise InvalidInput(f"A {shown(self.document['type'])} that was read from plain data has no code, and computes nothing.")


def declared_model(study: Study) -> DeclaredModel | None:
    """The model of a rebuilt study, if only its own code can train it; None for a built-in model, and for a query."""
    model = traits(study.algorithm, AlgorithmTraits).model
    return model if isinstance(model, DeclaredModel) else None


@dataclass(frozen=True)
class Sites:
    """A `Population` of sites: the names on a roster, and the schema that a study declares.

    Raises InvalidInput where there is no site, where two have the same name, and for a schema that contradicts itself.
    """

    names: tuple[str, ...]
    schema: Schema

    def __post_init__(self) -> None:
        if not self.names:
            raise InvalidInput("A roster needs at least one site; found none.")
        twice = first_repeated(self.names)
        if twice is not None:
            raise InvalidInput(f"Sites need unique names; {twice!r} occurs more than once. Rename one.")
        check_schema(self.schema)

    @property
    def public(self) -> Public:
        """What everyone may know: the schema, and how many sites there are."""
        return Public(self.schema, len(self.names))


def rebuild(document: object) -> Study:
    """The study that plain data describe. `rebuild(study.to_plain()).hash == study.hash` for every study of built-in parts.

    Raises:
        InvalidInput: for an unknown type, field or value, for counts that are too large, and where the study does not say of
            itself, to the byte, what the data say.
        Refused: where a part refuses its settings.
    """
    check_depth(document, "The study")
    study: Study = _read(Study, document, "study")
    asks = traits(study.algorithm, AlgorithmTraits)
    counts: list[tuple[str, Any, int]] = [("rounds", study.rounds, MOST_ROUNDS), ("algorithm.bins", asks.bins, MOST_BINS)]
    if asks.local is not None:
        counts += [
            ("algorithm.local.steps", asks.local.steps, MOST_STEPS),
            ("algorithm.local.epochs", asks.local.epochs, MOST_STEPS),
        ]
    for where, found, most in counts:
        if found is not None and np.max(found) > most:
            raise InvalidInput(f"study.{where} is {shown(found)}; over a network at most {most:,} are taken. Ask for fewer.")
    _check_same(to_plain(study, skip_own=True), document, "study")
    return study


def schema_of(document: object) -> Schema:
    """The schema that plain data, `to_plain(schema)`, describe.

    Raises InvalidInput as `rebuild` does, and for a schema that contradicts itself.
    """
    check_depth(document, "The schema")
    schema: Schema = _read(Schema, document, "schema")
    check_schema(schema)
    _check_same(to_plain(schema), document, "schema")
    return schema


def _read(kind: Any, document: object, where: str) -> Any:
    if not isinstance(document, Mapping):
        raise InvalidInput(f"{where} expects a table of type {kind.__name__!r}; found {shown(document)}.")
    return _table(kind, document, where)


def _table(annotation: object, table: Mapping[str, Any], where: str) -> Any:
    """The object that a table describes, of one of the classes that may stand in a field of this annotation."""
    if typing.get_origin(annotation) is abc.Mapping:
        return _codes(table, where)
    name, rest = table.get("type"), {key: value for key, value in table.items() if key != "type"}
    known = {kind.__name__: kind for option in options(annotation) for kind in BUILT_IN.get(option, ())}
    if annotation is Model:
        return _model(name, table, known.get(str(name)), where)
    if not isinstance(name, str) or name not in known:
        may = ", ".join(known) or "no table"
        raise InvalidInput(
            f"{where} expects {may}; found {shown(name)}. Sites run algorithms, layers and summations of their own manent alone: "
            f"use a built-in one, or the same version on all sides."
        )
    found = read(known[name], rest, where, _table, whole=True)
    if isinstance(found, Layout):
        _check_layout(found, where)
    return found


def _codes(table: Mapping[str, Any], where: str) -> dict[int, str]:
    """The codes of a column, each with its meaning."""
    for code, meaning in table.items():
        if not _CODE.fullmatch(code) or not isinstance(meaning, str):
            raise InvalidInput(f"{where} expects whole numbers and their meaning; found {shown(code)}: {shown(meaning)}.")
    return {int(code): meaning for code, meaning in table.items()}


def _model(name: object, table: Mapping[str, Any], own: type[Any] | None, where: str) -> Model:
    """A model that numpy computes, as itself; any other by what its plain data say."""
    if own is not None:
        own_fields = {f.name: table[f.name] for f in fields(own) if f.name in table}
        made: Model = read(own, own_fields, where, _table, whole=True)
        return made
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{where} expects the type of a model; found {shown(name)}.")
    rest = {f.name: table[f.name] for f in fields(_Said) if f.name in table}
    said = read(_Said, rest, where, _table)
    if not (said.classes >= 2 if said.kind == "multiclass" else said.classes == (2 if said.kind == "binary" else 0)):
        raise InvalidInput(f"{where} is a {said.kind} model; found {said.classes} classes.")
    names = [block.name for block in said.layout.blocks]
    if names not in (["parameters"], ["parameters", "statistics"]) or any(
        block.bound is not None for block in said.layout.blocks
    ):
        raise InvalidInput(f"{where}.layout expects the blocks 'parameters' and perhaps 'statistics'; found {shown(names)}.")
    return DeclaredModel(dict(table), said.layout, said.kind, said.classes)


@dataclass(frozen=True)
class _Said:
    """What the plain data of every model must say."""

    kind: Kind
    classes: int
    layout: Layout


def _check_layout(layout: Layout, where: str) -> None:
    for block in layout.blocks:
        for entry in block.entries:
            if any(n < 0 for n in entry.shape):
                raise InvalidInput(
                    f"{where}: tensor {shown(entry.name)} has the shape {shown(entry.shape)}; no size is negative."
                )
    if not 0 < layout.size <= MOST_PARAMETERS:
        raise InvalidInput(f"{where} has {layout.size:,} numbers; expected 1 to {MOST_PARAMETERS:,}.")


def _check_same(found: Any, document: Any, where: str) -> None:
    """Raises InvalidInput, saying where, unless what was read describes itself exactly as the document does."""
    if isinstance(found, Mapping) and isinstance(document, Mapping):
        for key in sorted({*found, *document}):
            if key not in found or key not in document:
                raise InvalidInput(
                    f"{where} {'lacks' if key in found else 'has'} {shown(key)}, unlike {found.get('type')}'s own."
                )
            _check_same(found[key], document[key], f"{where}.{key}")
    elif isinstance(found, list) and isinstance(document, list | tuple) and len(found) == len(document):
        for index, pair in enumerate(zip(found, document, strict=True)):
            _check_same(*pair, f"{where}.{index}")
    elif canonical(found) != canonical(document):
        raise InvalidInput(f"{where} is {shown(document)}, and is read as {shown(found)}; write it as such.")
