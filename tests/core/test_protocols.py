"""Traits: what a part may declare beside its protocol."""

from __future__ import annotations

import pytest

from manent.core.layers import LayerTraits
from manent.core.protocols import AlgorithmTraits, ModelTraits, traits


class Nothing:
    """A part that declares nothing beside its protocol."""


class Declares:
    """One that does: on the class, on the object, and by a property."""

    together = 3

    def __init__(self):
        self.parted = True

    @property
    def column(self):
        return "age"


class Wraps:
    """One that passes everything on, as a wrapper does."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Fails:
    """One whose property raises what a missing member would."""

    @property
    def needs_independent_rounds(self):
        return self.no_such_thing


def test_what_is_not_declared_has_its_default():
    assert traits(Nothing(), AlgorithmTraits) == AlgorithmTraits()
    assert traits(None, ModelTraits) == ModelTraits()


@pytest.mark.parametrize("part", [Declares(), Wraps(Declares())])
def test_what_is_declared_counts_however_it_is_declared(part):
    assert traits(part, AlgorithmTraits) == AlgorithmTraits(together=3, parted=True, column="age")


def test_a_member_that_fails_does_not_pass_for_one_that_is_not_there():
    with pytest.raises(AttributeError, match="no_such_thing"):
        traits(Fails(), LayerTraits)
