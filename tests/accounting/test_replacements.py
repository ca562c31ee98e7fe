"""How far a replacement moves a sum is part of an event, from its second version on. The first means twice the norm."""

from __future__ import annotations

import json
import math

import pytest

import manent as mn
from manent import accounting as ac
from manent.accounting.events import parse, text

ONE_HOT = math.sqrt(2)
A, R, Z = "add_or_remove", "replace_one", "zero_out"
EVENTS = [
    ac.Gaussian(2.0, replaced=ONE_HOT),
    ac.RoundedGaussian(2.0, 1e-15, replaced=ONE_HOT),
    ac.DiscreteGaussian(2.0, replaced=ONE_HOT),
    ac.DiscreteLaplace(10.0, 4, replaced=1.5),
    ac.MatrixFactorisation(2.0, 20, 2, 10, replaced=ONE_HOT),
]
named = {"ids": lambda event: type(event).__name__}


@pytest.mark.parametrize("event", EVENTS, **named)
def test_the_second_version_is_written_and_read(event):
    values = json.loads(text(event))
    assert (values["version"], values["replaced"]) == (2, event.replaced)
    assert parse(text(event)) == event
    assert text(parse(text(event))) == text(event)


@pytest.mark.parametrize("event", EVENTS, **named)
def test_the_first_version_keeps_its_meaning_and_its_bytes(event):
    values = json.loads(text(event))
    del values["replaced"]
    values["version"] = 1
    old = parse(values)
    assert old.replaced == 2
    assert json.loads(text(old)) == values
    assert ac.epsilon(old, 1e-6, R).epsilon > ac.epsilon(event, 1e-6, R).epsilon
    for relation in (A, Z):
        assert ac.epsilon(old, 1e-6, relation).epsilon == ac.epsilon(event, 1e-6, relation).epsilon


@pytest.mark.parametrize("event", EVENTS, **named)
@pytest.mark.parametrize("change", [{"version": 3}, {"version": 1}, {"replaced": 2.1}, {"replaced": 0}, {"replaced": "2"}])
def test_what_is_no_such_event_is_refused(event, change):
    with pytest.raises(mn.InvalidInput):
        parse({**json.loads(text(event)), **change})


def test_a_version_without_its_field_and_events_without_a_ratio_are_refused():
    for values in (
        {"type": "Gaussian", "version": 2, "noise_multiplier": 1.0},
        {"type": "ZeroConcentrated", "version": 2, "rho": 1.0},
        {"type": "Poisson", "version": 2, "probability": 0.5},
    ):
        with pytest.raises(mn.InvalidInput):
            parse(values)


@pytest.mark.parametrize("accountant", ["auto", "rdp", "zcdp", "analytic", "pld"])
def test_noise_is_measured_against_the_replacement(accountant):
    one_hot, plain = ac.Repeated(ac.Gaussian(3.0, replaced=ONE_HOT), 5), ac.Repeated(ac.Gaussian(3.0 / ONE_HOT), 5)
    found, same = ac.epsilon(one_hot, 1e-6, R, accountant).epsilon, ac.epsilon(plain, 1e-6, A, accountant).epsilon
    assert found == pytest.approx(same, rel=1e-6)


def test_pure_noise_too():
    assert ac.epsilon(ac.DiscreteLaplace(10.0, 4, replaced=1.5), 1e-30, R).epsilon == pytest.approx(0.6)


def test_different_ratios_compose_into_one_gaussian():
    both = ac.Composed((ac.Gaussian(3.0, replaced=ONE_HOT), ac.Gaussian(4.0)))
    joint = 1 / math.sqrt(2 / 9 + 4 / 16)
    assert ac.epsilon(both, 1e-6, R).epsilon == pytest.approx(ac.epsilon(ac.Gaussian(joint), 1e-6, A).epsilon, rel=1e-9)


def test_samples_of_them():
    """A fixed-size sample moves by a replacement: it costs what the plain event of that distance does."""
    sampled = ac.Repeated(ac.Sampled(ac.Gaussian(2 * ONE_HOT, replaced=ONE_HOT), ac.FixedSize(10, 1_000)), 50)
    plain = ac.Repeated(ac.Sampled(ac.Gaussian(4.0), ac.FixedSize(10, 1_000)), 50)
    assert ac.epsilon(sampled, 1e-6, R).epsilon == pytest.approx(ac.epsilon(plain, 1e-6, R).epsilon, rel=1e-9)
    # Where one of two is a zero, the distance is at least the norm.
    near = ac.Repeated(ac.Sampled(ac.Gaussian(2.0, replaced=0.5), ac.FixedSize(10, 1_000)), 50)
    assert ac.epsilon(near, 1e-6, Z).epsilon == pytest.approx(ac.epsilon(plain, 1e-6, Z).epsilon, rel=1e-9)
    poisson = ac.training(2.0, 50, 0.1)
    one_hot = ac.Repeated(ac.Sampled(ac.Gaussian(2.0, replaced=ONE_HOT), ac.Poisson(0.1)), 50)
    assert ac.epsilon(one_hot, 1e-6, R).epsilon <= ac.epsilon(poisson, 1e-6, R).epsilon
