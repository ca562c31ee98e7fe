"""The shared checks of arguments: what they take, what they refuse, and that they never fail in another way."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core import validate
from manent.core.errors import InvalidInput

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**60), 2**60)
NUMBERS = st.one_of(WHOLE, WHOLE.map(np.int64), FLOATS, FLOATS.map(np.float64), st.fractions())
NOT_NUMBERS = st.one_of(
    st.none(),
    st.booleans(),
    st.booleans().map(np.bool_),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from([math.nan, np.float64("nan"), np.float32("nan"), -math.inf, 1j, {}, [], (1,), [0.5], "0.5", object()]),
    st.sampled_from([np.zeros(0), np.ones(1), np.array([0.5, 0.5]), np.array(["a", "b"]), np.array(0.5)]),
    st.sampled_from([10**400, -(10**400), 10**6000]),
)
CHECKS = {
    "count": lambda value: validate.count("It", "n", value),
    "count from 0": lambda value: validate.count("It", "n", value, minimum=0),
    "number": lambda value: validate.number("It", "n", value),
    "positive": lambda value: validate.positive("It", "n", value),
    "not negative": lambda value: validate.not_negative("It", "n", value),
    "fraction": lambda value: validate.fraction("It", "n", value),
    "open fraction": lambda value: validate.fraction("It", "n", value, zero=False, one=False),
}
HOLDS = {
    "count": lambda v: isinstance(v, int | np.integer) and v >= 1,
    "count from 0": lambda v: isinstance(v, int | np.integer) and v >= 0,
    "number": lambda v: True,
    "positive": lambda v: v > 0,
    "not negative": lambda v: v >= 0,
    "fraction": lambda v: 0 <= v <= 1,
    "open fraction": lambda v: 0 < v < 1,
}


def refuses(check, value) -> bool:
    """Whether a check refuses a value. Any error but InvalidInput fails the test."""
    message = ""
    try:
        check(value)
    except InvalidInput as error:
        message = str(error)
    assert not message or (message.startswith("It expects") and len(message) < 400)
    return bool(message)


@pytest.mark.parametrize("name", CHECKS)
@given(value=NUMBERS)
def test_a_number_is_taken_exactly_in_its_range(name, value):
    assert refuses(CHECKS[name], value) is not HOLDS[name](value)


@pytest.mark.parametrize("name", CHECKS)
@given(value=NOT_NUMBERS)
def test_what_is_no_number_is_refused(name, value):
    if name.startswith("count") and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        assert not refuses(CHECKS[name], value)  # a whole number may be as large as it likes
    else:
        assert refuses(CHECKS[name], value)


@pytest.mark.parametrize(("zero", "one"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_ends_of_a_fraction_are_as_asked(zero, one):
    for end, allowed in ((0, zero), (0.0, zero), (1, one), (1.0, one), (Fraction(1), one)):
        assert refuses(lambda v: validate.fraction("It", "n", v, zero=zero, one=one), end) is not allowed


def test_infinity_is_positive_only_where_it_is_asked_for():
    validate.positive("It", "n", math.inf, infinite=True)
    for value in (-math.inf, math.nan, 0, None, "inf", True, np.array(math.inf)):
        assert refuses(lambda v: validate.positive("It", "n", v, infinite=True), value)
    assert refuses(lambda v: validate.positive("It", "n", v), math.inf)


@given(st.one_of(NUMBERS, NOT_NUMBERS))
def test_a_choice_is_taken_only_if_it_is_one(value):
    choices = ("sgd", "adam", 0.5, 7, None)
    listed = any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices)
    refused = refuses(lambda v: validate.one_of("It", "kind", v, choices), value)
    assert not refused if listed else refused or isinstance(value, float | np.floating)


def test_a_choice_is_no_other_of_equal_value():
    for value in (True, np.array(["sgd", "adam"]), "SGD", ["sgd"], 1.5):
        assert refuses(lambda v: validate.one_of("It", "kind", v, ("sgd", 1)), value)
    validate.one_of("It", "flag", True, (True, None))


def test_a_message_says_who_what_found_and_what_else():
    with pytest.raises(InvalidInput, match=r"^Cohort expects size >= 1; found 0\. Give a whole number or None \(everyone\)\.$"):
        validate.count("Cohort", "size", 0, " or None (everyone)")
    with pytest.raises(InvalidInput, match=r"^FedProx expects a finite mu >= 0; found 'abc'\. Give zero or more\.$"):
        validate.not_negative("FedProx", "mu", "abc")
    with pytest.raises(InvalidInput, match=r"^It expects 0 <= p < 1; found 1\. Give a number in that range\.$"):
        validate.fraction("It", "p", 1, one=False)
    with pytest.raises(InvalidInput, match=r"^It expects kind as one of 'a', 'b'; found 'c'\.$"):
        validate.one_of("It", "kind", "c", ("a", "b"))


@pytest.mark.parametrize("value", [0, -3, 2**70, np.int64(4)])
def test_a_whole_number_of_either_sign_is_taken(value):
    validate.whole("It", "n", value)


@pytest.mark.parametrize("value", [True, np.bool_(True), 1.0, 1.5, "1", None, math.nan, [1], np.array(1)], ids=repr)
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(InvalidInput, match="It expects a whole number as n; found .* Give a whole number"):
        validate.whole("It", "n", value)


class Part:
    first = 1

    def second(self): ...


def test_a_part_needs_the_members_and_no_base_class():
    validate.part("It", "n", Part(), "a part", ("first", "second"), "Part()")
    with pytest.raises(InvalidInput, match=r"^It expects a part as n; found Part, a class. Call it: Part\(...\), as in Part"):
        validate.part("It", "n", Part, "a part", ("first",), "Part()")
    with pytest.raises(InvalidInput, match=r"^It expects a part as n; found 3. Give one, such as Part\(\).$"):
        validate.part("It", "n", 3, "a part", ("first", "second"), "Part()")
    with pytest.raises(InvalidInput, match="found <.*Part object.*>, which has no third and no fourth. Give one"):
        validate.part("It", "n", Part(), "a part", ("first", "third", "fourth"), "Part()")


@pytest.mark.parametrize(
    ("value", "told"), [(1, "an int"), ("", "a str"), ({}, "a dict"), (None, "a NoneType"), (np.zeros(1), "an ndarray")]
)
def test_a_type_is_named_with_its_article(value, told):
    assert validate.typed(value) == told
