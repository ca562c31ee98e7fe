"""A study as plain data: its canonical form, its hash, and overrides by name."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from manent.core.errors import InvalidInput, check_count
from manent.core.protocols import Algorithm, Layer, PrivacyBudget, Summation


@dataclass(frozen=True)
class Cohort:
    """Who takes part in each sum.

    Attributes:
        size: a fixed number, drawn without replacement.
        sampling_probability: each client independently with this probability (Poisson); a cohort may be empty.
        minimum: the fewest answers with which a sum is released; with fewer it is abandoned.
        maximum: of more clients than this, only so many, at random, are asked (with sampling_probability).
        min_separation: the fewest rounds from one participation of a client to its next. The clients are dealt into so many
            groups, once and at random, and the groups take turns; a sum's cohort is drawn from the group whose turn it is. So in
            r rounds nobody takes part more than ceil(r / min_separation) times, whoever answers.

    With neither size nor sampling_probability, everyone (whose turn it is) takes part.
    """

    size: int | None = None
    sampling_probability: float | None = None
    minimum: int = 1
    maximum: int | None = None
    min_separation: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.sampling_probability is not None:
            raise InvalidInput("Cohort takes size or sampling_probability, not both.")
        if self.size is not None:
            check_count("Cohort", "size", self.size, " or None (everyone)")
        if self.sampling_probability is not None and not 0 < self.sampling_probability <= 1:
            raise InvalidInput(f"Cohort expects 0 < sampling_probability <= 1; found {self.sampling_probability}.")
        check_count("Cohort", "minimum", self.minimum)
        if self.maximum is not None:
            check_count("Cohort", "maximum", self.maximum, " or None (no limit)")
            if self.sampling_probability is None:
                raise InvalidInput(f"Cohort takes maximum with sampling_probability only; found maximum={self.maximum}.")
        if self.min_separation is not None:
            check_count("Cohort", "min_separation", self.min_separation, " or None (any)")
            if self.sampling_probability is not None:
                raise InvalidInput("Cohort takes min_separation with size or by itself; a Poisson cohort keeps no distance.")

    def check(self, clients: int) -> None:
        """Raises InvalidInput where a population of this many clients cannot fill the cohort."""
        turn = clients // (self.min_separation or 1)  # the smallest group
        largest = min(turn, self.size or clients, self.maximum or clients)
        if self.size is not None and self.size > clients:
            raise InvalidInput(f"Cohort asks for {self.size} clients, but the data have {clients}; ask for fewer.")
        if self.min_separation is not None and (self.size or 1) > turn:
            raise InvalidInput(
                f"Cohort asks for {self.size or 'all'} of a group, and {clients} clients in {self.min_separation} groups are "
                f"{turn} in the smallest. Use min_separation <= {clients // (self.size or 1)}."
            )
        if self.minimum > largest:
            raise InvalidInput(f"Cohort expects at least {self.minimum} answers, but at most {largest} clients are asked.")

    def turn(self, clients: int, round: int, dealing: np.random.Generator) -> tuple[int, ...] | None:
        """Sorted indices of the group whose turn it is in a round, from 1; None where the cohort keeps no distance.

        `dealing` must be the same, and untouched, in every round of a run: then the groups are, and no client is in two.
        """
        if self.min_separation is None:
            return None
        dealt = dealing.permutation(clients)[(round - 1) % self.min_separation :: self.min_separation]
        return tuple(sorted(int(i) for i in dealt))

    def draw(self, clients: int, rng: np.random.Generator, turn: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Sorted indices of the clients of one sum; of those whose turn it is, see `turn`."""
        if self.min_separation is not None:
            if turn is None:
                raise InvalidInput("A cohort with min_separation is drawn from a group; pass turn=cohort.turn(...).")
            if self.size is None:
                return turn
            return tuple(sorted(int(i) for i in rng.choice(np.asarray(turn), self.size, replace=False)))
        if self.size is not None:
            return tuple(sorted(int(i) for i in rng.choice(clients, self.size, replace=False)))
        if self.sampling_probability is not None:
            drawn = np.flatnonzero(rng.random(clients) < self.sampling_probability)
            if self.maximum is not None and len(drawn) > self.maximum:
                drawn = np.sort(rng.choice(drawn, self.maximum, replace=False))
            return tuple(int(i) for i in drawn)
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
        budget: the differential privacy that the result must have; the noise is derived from it.
    """

    algorithm: Algorithm
    rounds: int = 1
    cohort: Cohort = field(default_factory=Cohort)
    layers: tuple[Layer, ...] | list[Layer] = ()
    summation: Summation | None = None
    name: str = ""
    budget: PrivacyBudget | None = None

    def __post_init__(self) -> None:
        check_count("Study", "rounds", self.rounds)
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
        return float(value) if np.isfinite(value) else repr(float(value))
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": str(value.dtype), "shape": list(value.shape), "sha256": digest}
    if not skip_own and callable(getattr(value, "plain", None)):
        return {"type": type_name(type(value)), **plain(value.plain())}
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
    module = value.__module__ or ""
    return str(value.__qualname__ if module.startswith("manent.") else f"{module}:{value.__qualname__}")


def code_hash(value: Any) -> str:
    """SHA-256 of the source of a class or function, and of what a function captured: defaults, and variables around it.

    Where there is no source, of its byte code. Global names that it uses are not followed.
    """
    captured = [*(getattr(value, "__defaults__", None) or ()), *(getattr(value, "__kwdefaults__", None) or {}).values()]
    for cell in getattr(value, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell may be empty still
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
    # The source of a lambda is its whole line, on which there may be others: where it ends tells them apart.
    ends = [(end - code.co_firstlineno, column) for _, end, _, column in code.co_positions() if end and column]
    return f"{source}{max(ends, default=None)}"


def _byte_code(code: types.CodeType) -> str:
    """The same text in every process: no addresses, and sets in order."""
    constants = []
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            constants.append(_byte_code(item))
        else:
            constants.append(repr(sorted(map(repr, item)) if isinstance(item, frozenset) else item))
    return f"{code.co_code.hex()}{constants}{code.co_names}"


def _captured(value: Any) -> Any:
    """Plain data for a captured value; the name of its type where there is none."""
    if isinstance(value, type) or inspect.isroutine(value):
        return [type_name(value), _source(value)]
    if isinstance(value, types.ModuleType):
        return value.__name__
    try:
        return plain(np.asarray(value) if hasattr(value, "__array__") else value)
    except InvalidInput:
        return type_name(type(value))


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
    same = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
    near = [*same, *difflib.get_close_matches(path, known, 3, 0.6)] or [
        name for name in known if difflib.get_close_matches(leaf, [name.rsplit(".", 1)[-1]], 1, 0.6)
    ]
    hint = f"did you mean {', '.join(list(dict.fromkeys(near))[:3])}?" if near else f"it has: {', '.join(known)}."
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
    except ValueError:
        value = {"none": None, "None": None, "True": True, "False": False}.get(text, text)
    fitted = _fit(value, annotation)
    if fitted is _MISFIT:
        fitted = _fit(text, annotation)  # where text is wanted, it may look like something else
    if fitted is _MISFIT:
        raise InvalidInput(f"{name} expects {_describe(annotation)}; found {text[:80]!r}.")
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
        number = isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)
        return float(value) if number else _MISFIT
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
    if typing.get_origin(annotation) is tuple:
        items = [_describe(a) for a in typing.get_args(annotation) if a is not Ellipsis]
        return f"a list in brackets ({', '.join(items)}{', ...' if Ellipsis in typing.get_args(annotation) else ''})"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
    return names.get(annotation, f"a {getattr(annotation, '__name__', annotation)} (which text cannot set)")
