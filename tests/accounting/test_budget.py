"""A budget says everything, or is refused."""

from __future__ import annotations

import json

import pytest

import manent as mn
from manent.accounting import Budget, Ledger
from manent.core.canonical import canonical
from manent.core.errors import InvalidInput
from manent.rounds.declared import rebuild
from manent.storage import MemoryStore

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


def test_a_budget_names_whom_it_holds_against():
    budget = Budget(**GOOD, against=["server", "public"])
    assert budget.against == ("server", "public")
    assert budget.to_plain() == {**GOOD, "against": ["server", "public"]}
    assert Budget(**budget.to_plain()) == budget != Budget(**GOOD)
    for wrong in (["srever"], [], "server", ("server", "server"), ("server", 3), 7):
        with pytest.raises(mn.InvalidInput, match="Budget expects against"):
            Budget(**GOOD, against=wrong)


def test_a_ledger_keeps_it_and_still_reads_budgets_without_it():
    store = MemoryStore()
    ledger = Ledger(store)
    old, new = Budget(**GOOD), Budget(**GOOD, against=("server",))
    ledger.open("old", old)
    ledger.open("new", new)
    again = Ledger(store)
    assert (again.account("old").budget, again.account("new").budget) == (old, new)
    again.verify()
    with store.snapshot() as view:  # byte for byte as before there was the field
        assert b"against" not in view.get("ledger/data/old")
        assert b"against" in view.get("ledger/data/new")
    with pytest.raises(mn.InvalidInput, match="a budget is not changed"):
        again.open("old", new)


def test_a_study_crosses_a_wire_with_it_and_without():
    for budget in (Budget(**GOOD), Budget(**GOOD, against=("clients", "public"))):
        study = mn.Study(mn.Histogram("age", 8), budget=budget)
        assert rebuild(json.loads(canonical(study.to_plain()))).budget == budget
