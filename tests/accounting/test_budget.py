"""A budget says everything, or is refused."""

from __future__ import annotations

import pytest

import manent as mn
from manent.accounting import Budget
from manent.core.errors import InvalidInput

GOOD = {"epsilon": 4.0, "delta": 1e-5, "privacy_unit": "example", "neighboring_relation": "add_or_remove"}


def test_every_part_is_required():
    assert Budget(**GOOD).to_plain() == GOOD
    for name in GOOD:
        with pytest.raises(TypeError):
            Budget(**{key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", 0),
        ("epsilon", -1.0),
        ("epsilon", float("inf")),
        ("epsilon", float("nan")),
        ("epsilon", "4"),
        ("epsilon", True),
        ("delta", 0),
        ("delta", 1),
        ("delta", float("nan")),
        ("delta", None),
        ("privacy_unit", "user"),
        ("privacy_unit", None),
        ("neighboring_relation", "replace"),
        ("neighboring_relation", ""),
    ],
)
def test_what_makes_no_sense_is_refused(name, value):
    with pytest.raises(mn.InvalidInput, match=name):
        Budget(**{**GOOD, name: value})


def test_delta_must_not_cover_a_unit_of_the_population():
    Budget(**GOOD).check_population(99_999)
    with pytest.raises(mn.InvalidInput, match="outright"):
        Budget(**GOOD).check_population(100_000)


@pytest.mark.parametrize("name", ["epsilon", "delta", "privacy_unit", "neighboring_relation"])
def test_a_message_names_the_budget(name):
    values = {"epsilon": 1.0, "delta": 1e-6, "privacy_unit": "client", "neighboring_relation": "add_or_remove", name: "x"}
    with pytest.raises(InvalidInput, match=f"^Budget expects .*{name}"):
        Budget(**values)
