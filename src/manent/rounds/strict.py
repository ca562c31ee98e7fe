"""Plain data read into typed fields: every key must be known and every type right; errors name the field that is wrong."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from manent.core.errors import InvalidInput

Nested = Callable[[object, Mapping[str, Any], str], Any]
"""Reads the table that stands in a field: (annotation of the field, table, where it stands)."""

LARGEST = 2**63
DEEPEST = 64
_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", type(None): "nothing"}


def read(kind: Any, table: Mapping[str, Any], where: str, nested: Nested, *, whole: bool = False) -> Any:
    """An instance of a dataclass, made from a table of its fields.

    Args:
        where: for messages, where the table stands.
        nested: reads the tables within the table.
        whole: whether every field must be there, even one with a default, but for those marked "may_lack", which documents had
            before the field was there lack.

    Raises InvalidInput for an unknown or missing key, and for a value of the wrong type or that the class refuses.
    """
    fields = [f for f in dataclasses.fields(kind) if f.init]
    names, wanted = [f.name for f in fields], hints(kind)
    for name in table:
        if name not in names:
            raise InvalidInput(f"{where} has an unknown key {shown(name)}; {_known(name, names)}")
    for f in fields:
        bare = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if f.name not in table and (bare or (whole and not f.metadata.get("may_lack"))):
            raise InvalidInput(f"{where} lacks the key {f.name!r}; add it: {described(wanted[f.name])}.")
    values = {name: fit(value, wanted[name], f"{where}.{name}" if where else name, nested) for name, value in table.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InvalidInput(f"{where} is no {kind.__name__}: {error}.") from None


def fit(value: object, annotation: object, where: str, nested: Nested) -> Any:
    """The value, lists as tuples. Raises InvalidInput where it is not of the annotated type."""
    if isinstance(value, Mapping):
        return nested(annotation, value, where)
    if isinstance(value, list):
        wanted = _elements(annotation, len(value))
        if wanted is not None:
            return tuple(
                fit(item, kind, f"{where}.{i}", nested) for i, (item, kind) in enumerate(zip(value, wanted, strict=True))
            )
    elif any(_fits(value, option) for option in options(annotation)):
        return value
    raise InvalidInput(f"{where} expects {described(annotation)}; found {shown(value)}.")


def options(annotation: object) -> tuple[Any, ...]:
    """The types that a union holds; any other annotation alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(inner for option in typing.get_args(annotation) for inner in options(option))
    return (type(None),) if annotation is None else (annotation,)


def _fits(value: object, option: Any) -> bool:
    if typing.get_origin(option) is Literal:
        return any(type(value) is type(known) and value == known for known in typing.get_args(option))
    if option is float:
        return math.isfinite(value) if isinstance(value, float) else _fits(value, int)
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    return option in (bool, str, type(None)) and type(value) is option


def _elements(annotation: object, length: int) -> Sequence[object] | None:
    """The annotation of each element of a list of this length; None where no list of that length fits."""
    for option in options(annotation):
        if typing.get_origin(option) is tuple:
            args = typing.get_args(option)
            if len(args) == 2 and args[1] is Ellipsis:
                return [args[0]] * length
            if len(args) == length:
                return args
    return None


@lru_cache(maxsize=256)
def hints(kind: Any) -> dict[str, Any]:
    """The annotation of each field of a class, resolved."""
    return typing.get_type_hints(kind)


def described(annotation: object) -> str:
    """An annotation in words."""
    words = []
    for option in options(annotation):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if origin is Literal:
            words += [repr(known) for known in args]
        elif origin is tuple:
            inner = dict.fromkeys(described(arg) for arg in args if arg is not Ellipsis)
            words.append(f"a list of {', '.join(inner)}")
        elif option in _WORDS:
            words.append(_WORDS[option])
        elif origin is None and option is not list:
            words.append(f"a table ({getattr(option, '__name__', option)})")
        elif origin is not list:
            words.append("a table")
    return " or ".join(words)


def shown(value: object) -> str:
    """A value for a message: short, and without characters that could control a terminal."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _known(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, 1, 0.6)
    return f"did you mean {near[0]!r}?" if near else f"it takes: {', '.join(names) or 'none'}."


def check_depth(value: object, where: str, left: int = DEEPEST) -> None:
    """Raises InvalidInput for plain data that are nested deeper than any study."""
    if left == 0:
        raise InvalidInput(f"{where} is nested deeper than {DEEPEST} levels; no study is.")
    if isinstance(value, Mapping):
        for inner in value.values():
            check_depth(inner, where, left - 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_depth(inner, where, left - 1)
