"""The canonical form: a declaration as plain data, plain data as one byte string, and hashes of code."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput


def canonical(value: object) -> bytes:
    """Plain data as bytes, the same bytes for equal data: JSON with sorted keys and no spaces, in UTF-8.

    Raises ValueError for NaN and infinity, which `to_plain` writes as text.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def to_plain(value: Any, skip_own: bool = False) -> Any:
    """A declaration as plain data: JSON values only.

    A class with a `to_plain()` of its own is written as that says. Frozen dataclasses are written by type and field, functions
    and classes by name and hash of their source, arrays by type, shape and digest, and NaN and infinity as text.

    Args:
        skip_own: do not use the value's own `to_plain()`. That method itself calls with this, to write its fields.

    Raises InvalidInput for any other value.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else repr(float(value))
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    return _declared(value, skip_own)


def _declared(value: Any, skip_own: bool) -> Any:
    """`to_plain` of what JSON has no value for: arrays, declarations and code."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": str(value.dtype), "shape": list(value.shape), "sha256": digest}
    if not skip_own and callable(getattr(value, "to_plain", None)):
        return {"type": type_name(type(value)), **to_plain(value.to_plain())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type_name(type(value)), **fields}
    if isinstance(value, type) or inspect.isroutine(value):
        return {"code": type_name(value), "sha256": code_hash(value)}
    raise InvalidInput(
        f"A study is plain data; found {validate.typed(value)} in it. Use numbers, text, tuples or frozen dataclasses, "
        f"or give its class a to_plain() method."
    )


def type_name(value: Any) -> str:
    """The name of one of manent's own types or functions; "module:name" of any other."""
    module = value.__module__ or ""
    return str(value.__qualname__ if module.startswith("manent.") else f"{module}:{value.__qualname__}")


def code_hash(value: Any) -> str:
    """SHA-256, in hexadecimal, of the source of a class or function, and of the values that a function captured.

    Captured are its defaults and the variables of functions around it. Globals that it uses are not followed. Where the source is
    not to be had, its byte code is hashed instead.
    """
    captured = [*(getattr(value, "__defaults__", None) or ()), *(getattr(value, "__kwdefaults__", None) or {}).values()]
    for cell in getattr(value, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell may still be empty
            captured.append(cell.cell_contents)
    source = _source(value) if not captured else f"{_source(value)}{canonical([_captured(item) for item in captured]).decode()}"
    return hashlib.sha256(source.encode()).hexdigest()


def _source(value: Any) -> str:
    code = getattr(value, "__code__", None)
    try:
        source = inspect.getsource(value)
    except (OSError, TypeError):
        return _byte_code(code) if code else repr(value)
    if code is None or value.__name__ != "<lambda>":
        return source
    # The source of a lambda is its whole line, which may hold several. The place where each ends tells them apart.
    ends = [(end - code.co_firstlineno, column) for _, end, _, column in code.co_positions() if end and column]
    return f"{source}{max(ends, default=None)}"


def _byte_code(code: types.CodeType) -> str:
    """Byte code as text that is the same in every process: without addresses, and with sets in order."""
    constants = []
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            constants.append(_byte_code(item))
        else:
            constants.append(repr(sorted(map(repr, item)) if isinstance(item, frozenset) else item))
    return f"{code.co_code.hex()}{constants}{code.co_names}"


def _captured(value: Any) -> Any:
    """A captured value as plain data; the name of its type where it cannot be written so."""
    if isinstance(value, type) or inspect.isroutine(value):
        return [type_name(value), _source(value)]
    if isinstance(value, types.ModuleType):
        return value.__name__
    try:
        return to_plain(np.asarray(value) if hasattr(value, "__array__") else value)
    except InvalidInput:
        return type_name(type(value))
