"""A study as plain data: its canonical form, its hash, and overrides by name."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.protocols import Algorithm, Layer, Summation


@dataclass(frozen=True)
class Cohort:
    """Who takes part in each sum.

    Attributes:
        size: a fixed number, drawn without replacement.
        sampling_probability: each client independently with this probability (Poisson); a cohort may be empty.
        minimum: the fewest answers with which a sum is released; with fewer it is abandoned.

    With neither size nor sampling_probability, everyone takes part.
    """

    size: int | None = None
    sampling_probability: float | None = None
    minimum: int = 1

    def __post_init__(self) -> None:
        if self.size is not None and self.sampling_probability is not None:
            raise InvalidInput("Cohort takes size or sampling_probability, not both.")
        if self.size is not None and self.size < 1:
            raise InvalidInput(f"Cohort expects size >= 1; found {self.size}.")
        if self.sampling_probability is not None and not 0 < self.sampling_probability <= 1:
            raise InvalidInput(f"Cohort expects 0 < sampling_probability <= 1; found {self.sampling_probability}.")
        if self.minimum < 1:
            raise InvalidInput(f"Cohort expects minimum >= 1; found {self.minimum}.")

    def check(self, clients: int) -> None:
        """Raises InvalidInput where a population of this many clients cannot fill the cohort."""
        largest = min(clients, self.size or clients)
        if self.size is not None and self.size > clients:
            raise InvalidInput(f"Cohort asks for {self.size} clients, but the data have {clients}; ask for fewer.")
        if self.minimum > largest:
            raise InvalidInput(f"Cohort expects at least {self.minimum} answers, but at most {largest} clients are asked.")

    def draw(self, clients: int, rng: np.random.Generator) -> tuple[int, ...]:
        """Sorted indices of the clients of one sum."""
        if self.size is not None:
            return tuple(sorted(int(i) for i in rng.choice(clients, self.size, replace=False)))
        if self.sampling_probability is not None:
            return tuple(int(i) for i in np.flatnonzero(rng.random(clients) < self.sampling_probability))
        return tuple(range(clients))


@dataclass(frozen=True)
class Study:
    """What is computed, on whom, behind which guards. It says nothing of the machine that runs it.

    Attributes:
        algorithm: what is computed, and how each sum changes the state.
        rounds: how many rounds (a query takes one).
        cohort: who takes part in each sum.
        layers: what is done to a client's vector before it is summed, and undone after.
        summation: how terms are brought together, so who can see them.
        name: for people; part of the hash.
    """

    algorithm: Algorithm
    rounds: int = 1
    cohort: Cohort = field(default_factory=Cohort)
    layers: tuple[Layer, ...] | list[Layer] = ()
    summation: Summation | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InvalidInput(f"Study expects rounds >= 1; found {self.rounds}.")
        object.__setattr__(self, "layers", tuple(self.layers))

    def plain(self) -> dict[str, Any]:
        """Canonical plain data: JSON values only."""
        return typing.cast("dict[str, Any]", plain(self, skip_own=True))

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical form, in hexadecimal."""
        return hashlib.sha256(canonical(self.plain())).hexdigest()


def canonical(value: object) -> bytes:
    """One byte string for equal plain data: JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def plain(value: Any, skip_own: bool = False) -> Any:
    """Plain data for a declaration: frozen dataclasses by type and field, functions by name and source hash, arrays by digest.

    A class may have its own `plain()` instead. Raises InvalidInput for anything else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else repr(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": str(value.dtype), "shape": list(value.shape), "sha256": digest}
    if not skip_own and callable(getattr(value, "plain", None)):
        return {"type": type_name(type(value)), **value.plain()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type_name(type(value)), **fields}
    if isinstance(value, type) or inspect.isroutine(value):
        return {"code": type_name(value), "sha256": code_hash(value)}
    raise InvalidInput(
        f"A study is plain data; found a {type(value).__name__} in it. Use numbers, text, tuples or frozen dataclasses, "
        f"or give its class a plain() method."
    )


def type_name(value: Any) -> str:
    """The short name of manent's own types; module and name of others."""
    own = value.__module__.startswith("manent.")
    return str(value.__qualname__ if own else f"{value.__module__}:{value.__qualname__}")


def code_hash(value: Any) -> str:
    """SHA-256 of the source of a class or function; of its byte code where there is no source (a notebook's lambda)."""
    try:
        source = inspect.getsource(value)
    except (OSError, TypeError):
        code = getattr(value, "__code__", None)
        source = f"{code.co_code.hex()}{code.co_consts}{code.co_names}" if code else repr(value)
    return hashlib.sha256(source.encode()).hexdigest()


def override(study: Any, path: str, text: str) -> Any:
    """A copy of a declaration with the field at a dotted path set from text.

    >>> override(Study(algorithm=..., rounds=5), "rounds", "10").rounds      # doctest: +SKIP
    10

    Raises InvalidInput for an unknown name, listing near ones, or for text that does not fit the field.
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
            raise InvalidInput(f"{whole} is an object; set one of its fields, such as {whole}.NAME=VALUE.")
        items = list(node)
        items[int(head)] = _replace(items[int(head)], rest, text, whole, root)
        return tuple(items)
    raise _unknown(whole, root)


def _unknown(path: str, root: Any) -> InvalidInput:
    known = settings(root)
    leaf = path.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(path, known, 3, 0.6) or [
        name for name in known if difflib.get_close_matches(leaf, [name.rsplit(".", 1)[-1]], 1, 0.6)
    ]
    hint = f"did you mean {', '.join(near[:3])}?" if near else f"it has: {', '.join(known)}."
    return InvalidInput(f"The study has no setting {path!r}; {hint}")


def settings(node: Any, prefix: str = "") -> list[str]:
    """Dotted names of every field that `override` can set."""
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
    """Text as a value of the annotated type. Raises InvalidInput with what was expected."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = {"none": None, "None": None, "True": True, "False": False}.get(text, text)
    fitted = _fit(value, annotation)
    if fitted is _MISFIT and isinstance(value, int | float) and not isinstance(value, bool):
        fitted = _fit(text, annotation)
    if fitted is _MISFIT:
        raise InvalidInput(f"{name} expects {_describe(annotation)}; found {text!r}.")
    return fitted


_MISFIT = object()


def _fit(value: Any, annotation: Any) -> Any:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        fits = [fit for fit in (_fit(value, arg) for arg in args) if fit is not _MISFIT]
        return next((fit for fit in fits if type(fit) is type(value)), fits[0] if fits else _MISFIT)
    if origin is Literal:
        return value if value in args else _MISFIT
    if annotation is None or annotation is type(None):
        return None if value is None else _MISFIT
    if annotation is float:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _MISFIT
    if annotation in (int, str, bool):
        return value if type(value) is annotation else _MISFIT
    if origin is tuple and isinstance(value, list):
        wanted = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        items = [_fit(item, arg) for item, arg in zip(value, wanted, strict=False)]
        return tuple(items) if len(wanted) == len(value) and _MISFIT not in items else _MISFIT
    return _MISFIT


def _describe(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(a) for a in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_describe(a) for a in typing.get_args(annotation))
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
    return names.get(annotation, f"a {getattr(annotation, '__name__', annotation)} (which text cannot set)")
