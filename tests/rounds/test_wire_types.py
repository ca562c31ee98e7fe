"""The table of types that may cross a wire: what packages export gets in by itself, and nothing else does."""

from __future__ import annotations

import types
from dataclasses import dataclass, is_dataclass

import manent as mn
from manent.core.protocols import Layer
from manent.rounds import wire_types
from manent.rounds.strict import hints
from manent.rounds.wire_types import BUILT_IN

ALONE = {
    "Block", "Cohort", "Column", "Constant", "CosineDecay", "DPSGD", "Entry", "Evaluation", "ExponentialDecay", "Layout",
    "LocalSGD", "Schema", "Study", "WarmUp",
}  # fmt: skip


def test_every_type_in_it_is_a_frozen_dataclass_of_manents_own():
    for kinds in BUILT_IN.values():
        for kind in kinds:
            assert is_dataclass(kind)
            assert kind.__dataclass_params__.frozen
            assert kind.__module__.startswith("manent.")


def test_what_stands_for_itself_is_what_fields_ask_for_and_no_more():
    assert {kind.__name__ for kind, kinds in BUILT_IN.items() if kinds == (kind,)} == ALONE
    parts = {kind.__name__: {one.__name__ for one in kinds} for kind, kinds in BUILT_IN.items() if kinds != (kind,)}
    assert set(parts) == {"Algorithm", "Layer", "Model", "PrivacyBudget", "Summation"}
    assert parts["PrivacyBudget"] == {"Budget"}
    assert parts["Model"] == {"LinearModel", "LogisticModel", "SoftmaxModel"}


@dataclass(frozen=True)
class Good:
    """A layer as a package might export it."""

    norm: float = 1.0

    def enter(self, form, gathering):
        raise AssertionError("it was entered")


Good.__module__ = "manent.layers.good"


@dataclass
class Open:
    """Not frozen."""

    norm: float = 1.0

    def enter(self, form, gathering):
        raise AssertionError("it was entered")


Open.__module__ = "manent.layers.open"


class Plain:
    def enter(self, form, gathering):
        raise AssertionError("it was entered")


@dataclass(frozen=True)
class Foreign(Good):
    """Of somebody else's."""


@dataclass(frozen=True)
class Other:
    """No layer."""


Plain.__module__ = Other.__module__ = "manent.layers.other"


def test_an_exported_layer_gets_in_and_others_do_not():
    package = types.ModuleType("package")
    package.Good, package.Plain, package.Foreign, package.Other, package.Hidden = Good, Plain, Foreign, Other, mn.Clip
    package.Function, package.Instance, package.Open = (lambda: None), Good(), Open
    package.__all__ = ["Plain", "Other", "Foreign", "Function", "Instance", "Open", "Good"]
    assert wire_types._exported(Layer, (package,)) == (Good,)


def test_a_frozen_dataclass_is_what_can_be_made():
    assert wire_types._is_declaration(Good)
    for other in (Open, Plain, Foreign, Good(), None, "Good", int):
        assert not wire_types._is_declaration(other)


def test_annotations_are_resolved_once():
    assert hints(mn.Cohort) is hints(mn.Cohort)
