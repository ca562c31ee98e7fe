"""The types that may cross a wire: what plain data from elsewhere may become, and nothing else.

The table is read from what manent's packages export, so a new part needs no entry here. A type gets in only as a frozen dataclass
of manent's own that a package lists in its `__all__` and that has every member of the protocol, or that a field of such a type
asks for by name. Making one runs that class's own checks, and no other code.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from manent import accounting, algorithms, analytics, layers, summation
from manent.core.examples import Schema
from manent.core.protocols import Algorithm, Layer, Model, PrivacyBudget, Summation
from manent.core.study import Study
from manent.core.vectors import Layout
from manent.models import numpy as numpy_models
from manent.rounds.strict import hints

PACKAGES: Mapping[type[Any], tuple[ModuleType, ...]] = {
    Algorithm: (algorithms, analytics),
    Layer: (layers,),
    Summation: (summation,),
    PrivacyBudget: (accounting,),
    Model: (numpy_models,),
}
"""Whose exports may stand where a field asks for a part, by the part's protocol. Other models are only described."""
ROOTS: tuple[type[Any], ...] = (Study, Schema, Layout)
"""What is read as a whole. Their fields, and those of the parts, lead to every other type."""


def _exported(protocol: type[Any], packages: tuple[ModuleType, ...]) -> tuple[type[Any], ...]:
    """The packages' exports that keep to a protocol, by name."""
    wanted = {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}
    names = {name: getattr(package, name) for package in packages for name in package.__all__}
    found = [kind for kind in names.values() if _is_declaration(kind) and wanted <= {*dir(kind), *_fields(kind)}]
    return tuple(sorted(found, key=lambda kind: kind.__name__.lower()))


def _is_declaration(kind: Any) -> bool:
    """Whether it is a class of manent's own that declares something: a frozen dataclass that can be made."""
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind) or inspect.isabstract(kind):
        return False
    frozen: bool = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return frozen and kind.__module__.startswith("manent.")


def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.init)


def _within(annotation: Any) -> Iterator[Any]:
    """An annotation, and all that its unions and tuples hold."""
    yield annotation
    for inner in typing.get_args(annotation):
        yield from _within(inner)


def _table() -> dict[object, tuple[type[Any], ...]]:
    table: dict[object, tuple[type[Any], ...]] = {kind: _exported(kind, packages) for kind, packages in PACKAGES.items()}
    waiting: list[Any] = [*ROOTS, *(kind for kinds in table.values() for kind in kinds)]
    table |= {kind: (kind,) for kind in ROOTS}
    while waiting:
        kind = waiting.pop()
        for name in _fields(kind):
            for inner in _within(hints(kind)[name]):
                if inner not in table and _is_declaration(inner):
                    table[inner] = (inner,)
                    waiting.append(inner)
    return table


BUILT_IN: Mapping[object, tuple[type[Any], ...]] = _table()
"""What may stand in a field, by the field's annotation. Nothing else is ever made from plain data."""
