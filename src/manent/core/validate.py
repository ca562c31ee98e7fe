"""Shared checks of arguments. Each raises InvalidInput that says who expects what, what was found, and what to change."""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite
from numbers import Integral, Real
from typing import Any

from manent.core.errors import InvalidInput


def is_number(value: object) -> bool:
    """Whether it is a finite real number; True and False are none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # a whole number that no float64 holds
        return False


def is_count(value: object, minimum: int = 1) -> bool:
    """Whether it is a whole number of at least `minimum`; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= minimum


def count(owner: str, name: str, value: Any, otherwise: str = "", *, minimum: int = 1) -> None:
    """Raises InvalidInput unless the value is a whole number of at least `minimum`.

    Args:
        otherwise: what else may be given, as " or None (everyone)".
    """
    if not is_count(value, minimum):
        raise InvalidInput(f"{owner} expects {name} >= {minimum}; found {value!r}. Give a whole number{otherwise}.")


def positive(owner: str, name: str, value: Any, otherwise: str = "") -> None:
    """Raises InvalidInput unless the value is a finite number above zero."""
    if not (is_number(value) and value > 0):
        raise InvalidInput(f"{owner} expects a finite {name} > 0; found {value!r}. Give a positive number{otherwise}.")


def not_negative(owner: str, name: str, value: Any, otherwise: str = "") -> None:
    """Raises InvalidInput unless the value is a finite number of at least zero."""
    if not (is_number(value) and value >= 0):
        raise InvalidInput(f"{owner} expects a finite {name} >= 0; found {value!r}. Give zero or a positive number{otherwise}.")


def fraction(owner: str, name: str, value: Any, otherwise: str = "", *, zero: bool = True, one: bool = True) -> None:
    """Raises InvalidInput unless the value lies between 0 and 1.

    Args:
        zero, one: whether the end itself is allowed.
    """
    if not is_number(value) or not ((value >= 0 if zero else value > 0) and (value <= 1 if one else value < 1)):
        low, high = "0 <=" if zero else "0 <", "<= 1" if one else "< 1"
        raise InvalidInput(f"{owner} expects {low} {name} {high}; found {value!r}. Give a number in that range{otherwise}.")


def one_of(owner: str, name: str, value: Any, choices: Collection[Any]) -> None:
    """Raises InvalidInput unless the value is one of the choices."""
    if value not in list(choices):  # a list compares; a set would hash what may be unhashable
        raise InvalidInput(f"{owner} expects {name} as one of {', '.join(map(repr, choices))}; found {value!r}.")
