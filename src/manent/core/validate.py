"""Shared checks of arguments. Each raises InvalidInput, saying who expects what, what was found, and what to change.

| value given                       | `count`               | `number`, `positive`, `not_negative`, `fraction` |
|-----------------------------------|-----------------------|--------------------------------------------------|
| int, or a numpy integer           | taken if large enough | taken if in range                                |
| float, Fraction, or a numpy float | refused               | taken if in range                                |
| NaN, True, False                  | refused               | refused                                          |
| infinity                          | refused               | refused; `positive` can allow it                 |
| None, text, a list, an array      | refused               | refused                                          |
"""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite
from numbers import Integral, Real
from typing import Any

from manent.core.errors import InvalidInput

SMALLEST, LARGEST = 1e-50, 1e50
"""Of numbers that others are measured by: their squares, and those of their ratios, are still numbers in double precision."""
_SHOWN = 200  # characters of a value that a message shows


def is_number(value: object) -> bool:
    """Whether the value is a finite real number. True and False are not numbers here."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # a whole number that no float64 holds
        return False


def is_count(value: object, minimum: int = 1) -> bool:
    """Whether the value is a whole number of at least `minimum`. True and False are not numbers here, and neither is 2.0."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= minimum


def count(owner: str, name: str, value: Any, otherwise: str = "", *, minimum: int = 1) -> None:
    """Checks that the value is a whole number of at least `minimum`. Raises InvalidInput if it is not.

    Args:
        owner: who asks for the value, for the message: "Cohort".
        name: the argument's name: "size".
        otherwise: what else may be given, for the message: " or None (everyone)".
    """
    if not is_count(value, minimum):
        raise InvalidInput(f"{owner} expects {name} >= {minimum}; found {shown(value)}. Give a whole number{otherwise}.")


def whole(owner: str, name: str, value: Any, otherwise: str = "") -> None:
    """Checks that the value is a whole number of either sign. Raises InvalidInput if it is not.

    Args:
        owner, name, otherwise: as in `count`.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InvalidInput(f"{owner} expects a whole number as {name}; found {shown(value)}. Give a whole number{otherwise}.")


def number(owner: str, name: str, value: Any, otherwise: str = "") -> None:
    """Checks that the value is a finite number of either sign. Raises InvalidInput if it is not.

    Args:
        owner, name, otherwise: as in `count`.
    """
    if not is_number(value):
        raise InvalidInput(f"{owner} expects a finite number as {name}; found {shown(value)}. Give a number{otherwise}.")


def positive(owner: str, name: str, value: Any, otherwise: str = "", *, infinite: bool = False) -> None:
    """Checks that the value is a number above zero. Raises InvalidInput if it is not.

    Args:
        owner, name, otherwise: as in `count`.
        infinite: whether positive infinity is allowed too. Where it is not, the number must be finite.
    """
    if infinite and isinstance(value, float) and value == float("inf"):
        return
    if not (is_number(value) and value > 0):
        wanted = name if infinite else f"a finite {name}"
        raise InvalidInput(f"{owner} expects {wanted} > 0; found {shown(value)}. Give a positive number{otherwise}.")


def not_negative(owner: str, name: str, value: Any, otherwise: str = "") -> None:
    """Checks that the value is a finite number of at least zero. Raises InvalidInput if it is not.

    Args:
        owner, name, otherwise: as in `count`.
    """
    if not (is_number(value) and value >= 0):
        raise InvalidInput(f"{owner} expects a finite {name} >= 0; found {shown(value)}. Give zero or more{otherwise}.")


def fraction(owner: str, name: str, value: Any, otherwise: str = "", *, zero: bool = True, one: bool = True) -> None:
    """Checks that the value lies between 0 and 1. Raises InvalidInput if it does not.

    Args:
        owner, name, otherwise: as in `count`.
        zero: whether 0 itself is allowed.
        one: whether 1 itself is allowed.
    """
    if not is_number(value) or not ((value >= 0 if zero else value > 0) and (value <= 1 if one else value < 1)):
        low, high = "0 <=" if zero else "0 <", "<= 1" if one else "< 1"
        raise InvalidInput(f"{owner} expects {low} {name} {high}; found {shown(value)}. Give a number in that range{otherwise}.")


def sized(owner: str, name: str, value: Any, otherwise: str = "") -> None:
    """Checks that the value is a number from `SMALLEST` to `LARGEST`. Raises InvalidInput if it is not.

    Args:
        owner, name, otherwise: as in `count`.
    """
    positive(owner, name, value, otherwise)
    within(owner, name, value, SMALLEST, LARGEST)


def within(owner: str, name: str, value: Any, low: float, high: float, otherwise: str = "") -> None:
    """Checks that a number lies in a range, ends included. Raises InvalidInput if it does not: it cannot be computed with.

    Args:
        owner, name, otherwise: as in `count`.
    """
    if not low <= value <= high:
        raise InvalidInput(
            f"{owner} expects {low:g} <= {name} <= {high:g}; found {shown(value)}. Nothing computes beyond{otherwise}."
        )


def one_of(owner: str, name: str, value: Any, choices: Collection[Any]) -> None:
    """Checks that the value equals one of the choices, and is of that choice's type. Raises InvalidInput if it does not.

    Args:
        owner, name: as in `count`.
    """
    if not any(_equal(value, choice) for choice in choices):
        raise InvalidInput(f"{owner} expects {name} as one of {', '.join(map(repr, choices))}; found {shown(value)}.")


def names(owner: str, name: str, value: Any, example: str) -> None:
    """Checks that the value is a tuple or a list of texts. Raises InvalidInput if it is not: one text alone is refused too.

    Args:
        owner, name: as in `count`.
        example: something that may be given, for the message: "('accuracy',)".
    """
    if not isinstance(value, (tuple, list)) or not all(isinstance(one, str) for one in value):
        raise InvalidInput(f"{owner} expects {name} as a tuple of names; found {shown(value)}. Write {name}={example}.")


def part(owner: str, name: str, value: Any, kind: str, members: Collection[str], example: str) -> None:
    """Checks that the value can stand for a part of a study: it is no class, and has the members that are called on it.

    Args:
        owner, name: as in `count`.
        kind: what is expected, with its article, for the message: "an algorithm".
        members: the names of the methods and properties that it must have.
        example: something that may be given, for the message: "FedAvg(model, local)".

    Raises InvalidInput for a class, and for a value without one of the members.
    """
    if isinstance(value, type):
        raise InvalidInput(
            f"{owner} expects {kind} as {name}; found {value.__name__}, a class. Call it: {value.__name__}(...), as in {example}."
        )
    missing = [member for member in members if not hasattr(value, member)]
    if missing:
        lacks = "" if len(missing) == len(members) else f", which has no {' and no '.join(missing)}"
        raise InvalidInput(f"{owner} expects {kind} as {name}; found {shown(value)}{lacks}. Give one, such as {example}.")


def typed(value: object) -> str:
    """The name of the value's type with its article, for a message: "an int"."""
    name = type(value).__name__
    return f"{'an' if name.lower().startswith(('a', 'e', 'i', 'o', 'nd')) else 'a'} {name}"


def _equal(value: object, choice: object) -> bool:
    """Types are compared first: an array compared with text would not give one truth value, and True equals 1."""
    return isinstance(value, type(choice)) and isinstance(value, bool) == isinstance(choice, bool) and value == choice


def shown(value: object) -> str:
    """The value as a message shows it: its `repr`, cut to 200 characters."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
