"""Overrides: setting a field of a declaration from text, by its dotted name."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import types
import typing
from typing import Any, Literal

from manent.core.errors import InvalidInput


def override(study: Any, path: str, text: str) -> Any:
    """A copy of a declaration in which the field at a dotted path is set from text.

    >>> override(Study(algorithm=..., rounds=5), "rounds", "10").rounds      # doctest: +SKIP
    10

    Raises InvalidInput for an unknown name, with near ones, for text that does not fit the field, and where the declaration
    itself refuses the new value.
    """
    return _replace(study, path.split("."), text, path, study)


def _replace(node: Any, path: list[str], text: str, whole: str, root: Any) -> Any:
    head, rest = path[0], path[1:]
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        names = {f.name for f in dataclasses.fields(node) if f.init}
        if head not in names:
            raise _unknown(whole, root)
        if rest:
            return dataclasses.replace(node, **{head: _replace(getattr(node, head), rest, text, whole, root)})
        hints = typing.get_type_hints(type(node))
        return dataclasses.replace(node, **{head: parse(text, hints[head], whole)})
    if isinstance(node, tuple) and head.isdigit() and int(head) < len(node):
        if not rest:
            raise InvalidInput(f"{whole} is an object and cannot be set as a whole; set one of its fields: {whole}.NAME=VALUE.")
        items = list(node)
        items[int(head)] = _replace(items[int(head)], rest, text, whole, root)
        return tuple(items)
    raise _unknown(whole, root)


def _unknown(path: str, root: Any) -> InvalidInput:
    known = settings(root)
    leaf = path.rsplit(".", 1)[-1]
    same = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
    near = [*same, *difflib.get_close_matches(path, known, 3, 0.6)] or [
        name for name in known if difflib.get_close_matches(leaf, [name.rsplit(".", 1)[-1]], 1, 0.6)
    ]
    hint = f"did you mean {', '.join(list(dict.fromkeys(near))[:3])}?" if near else f"it has: {', '.join(known)}."
    return InvalidInput(f"The study has no setting {path!r}; {hint}")


def settings(node: Any, prefix: str = "") -> list[str]:
    """The dotted names of all fields that `override` can set."""
    names: list[str] = []
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        for f in dataclasses.fields(node):
            value = getattr(node, f.name)
            inner = settings(value, f"{prefix}{f.name}.")
            if inner:
                names += inner
            elif value is None or isinstance(value, bool | int | float | str | tuple):
                names.append(prefix + f.name)
    elif isinstance(node, tuple):
        for index, item in enumerate(node):
            names += settings(item, f"{prefix}{index}.")
    return names


def parse(text: str, annotation: Any, name: str) -> Any:
    """Text as a value of the annotated type.

    Args:
        text: JSON, or plain text; "none" and "None", "True" and "False" are read too.
        annotation: the field's type.
        name: the field's name, for the message.

    Raises InvalidInput, saying what was expected, where the text does not fit.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = {"none": None, "None": None, "True": True, "False": False}.get(text, text)
    fitted = _fit(value, annotation)
    if fitted is _MISFIT:
        fitted = _fit(text, annotation)  # where text is wanted, it may look like a number
    if fitted is _MISFIT:
        raise InvalidInput(f"{name} expects {_describe(annotation)}; found {text[:80]!r}.")
    return fitted


_MISFIT = object()


def _fit(value: Any, annotation: Any) -> Any:
    """The value as one of the annotated type, or `_MISFIT`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _fit_any(value, args)
    if origin is Literal:
        return value if value in args else _MISFIT
    if annotation is None or annotation is type(None):
        return None if value is None else _MISFIT
    if annotation is float:
        number = isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)
        return float(value) if number else _MISFIT
    if annotation in (int, str, bool):
        return value if type(value) is annotation else _MISFIT
    return _fit_items(value, args) if origin is tuple and isinstance(value, list) else _MISFIT


def _fit_any(value: Any, args: tuple[Any, ...]) -> Any:
    """The value as one of several types: as its own, where that is among them, else as the first that fits, or `_MISFIT`."""
    fits = [fit for fit in (_fit(value, arg) for arg in args) if fit is not _MISFIT]
    return next((fit for fit in fits if type(fit) is type(value)), fits[0] if fits else _MISFIT)


def _fit_items(values: list[Any], args: tuple[Any, ...]) -> Any:
    """The values as a tuple with items of these types, or `_MISFIT`; an ellipsis at the end stands for any number."""
    wanted = [args[0]] * len(values) if len(args) == 2 and args[1] is Ellipsis else list(args)
    items = [_fit(item, arg) for item, arg in zip(values, wanted, strict=False)]
    return tuple(items) if len(wanted) == len(values) and _MISFIT not in items else _MISFIT


def _describe(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(a) for a in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_describe(a) for a in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        items = [_describe(a) for a in typing.get_args(annotation) if a is not Ellipsis]
        return f"a list in brackets ({', '.join(items)}{', ...' if Ellipsis in typing.get_args(annotation) else ''})"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
    return names.get(annotation, f"a {getattr(annotation, '__name__', annotation)} (which text cannot set)")
