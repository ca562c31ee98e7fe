"""What every event and every sampling must answer, one row each: a new mechanism is one more row."""

from __future__ import annotations

import math

import numpy as np
import pytest

import manent as mn
from manent import accounting as ac
from manent.accounting import mechanisms
from manent.accounting.curves import renyi
from manent.accounting.events import counted, parse, text
from manent.accounting.protocol import Event, Sampling, check_known, register

FEW_ORDERS = (1.1, 1.3, 1.6, *map(float, (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128, 256, 512, 1024)))
RELATIONS = ("add_or_remove", "replace_one", "zero_out")
RELEASES = [
    ac.Gaussian(2.0),
    ac.RoundedGaussian(2.0, 1e-15),
    ac.DiscreteGaussian(2.0),
    ac.DiscreteLaplace(10.0, 5),
    ac.DistributedDiscreteGaussian(2.0, 50, 20.0, 200.0, 100),
    ac.Skellam(1e4, 50.0, 200.0),
    ac.MatrixFactorisation(2.0, 20, 2, 10, 1e-15),
    ac.ZeroConcentrated(0.1),
    ac.PureRelease(0.5, "add_or_remove"),
]
SAMPLINGS = [ac.Poisson(0.1), ac.TruncatedPoisson(0.1, 30, 100), ac.FixedSize(10, 100)]
COMPOSED = [ac.Repeated(ac.Gaussian(2.0), 3), ac.Composed((ac.Gaussian(2.0), ac.Skellam(1e4, 50.0, 200.0)))]
EVENTS = [*RELEASES, *(ac.Sampled(ac.Gaussian(2.0), by) for by in SAMPLINGS), *COMPOSED]
UNKNOWN_TO_DP_ACCOUNTING = (ac.DistributedDiscreteGaussian, ac.Skellam, ac.PureRelease)
named = {"ids": lambda value: value.label() if isinstance(value, Event) else str(value)}


def test_every_mechanism_has_its_row():
    rows = {type(kind).__name__ for kind in (*EVENTS, *SAMPLINGS)}
    assert rows == set(mechanisms.__all__)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("event", EVENTS, **named)
def test_a_curve_is_a_bound_that_grows_with_the_order_or_is_refused(event, relation):
    try:
        curve = renyi(counted(event), relation, FEW_ORDERS)
    except mn.Refused:
        return
    assert curve.shape == (len(FEW_ORDERS),)
    assert (curve >= 0).all()
    assert (np.diff(curve[np.isfinite(curve)]) >= -1e-12).all()
    for part in counted(event):
        rho = part.zcdp(relation)
        assert rho is None or (renyi({part: 1}, relation, FEW_ORDERS) <= rho * np.asarray(FEW_ORDERS) * (1 + 1e-9)).all()


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("event", EVENTS, **named)
def test_a_loss_distribution_is_there_exactly_where_it_is_promised(event, relation):
    for part in counted(event):
        if not part.has_pld(relation):
            with pytest.raises(mn.Refused, match="no PLD"):
                part.pld(relation, 1e-2, 1)
            continue
        if isinstance(part, ac.PureRelease) and relation == "zero_out":  # not the relation that it is stated for
            with pytest.raises(mn.Refused, match="says nothing"):
                part.pld(relation, 1e-2, 1)
            continue
        once, twice = (part.pld(relation, 1e-2, count).get_epsilon_for_delta(1e-5) for count in (1, 2))
        assert 0 < once < twice < math.inf
        assert part.pld_width(relation) >= 0


@pytest.mark.parametrize("event", EVENTS, **named)
def test_an_event_says_what_it_is(event):
    assert parse(text(event)) == event
    assert all(claim.endswith(".") for relation in RELATIONS for claim in event.claims(relation))
    assert 0 <= event.error() < 1e-12
    assert event.label()
    assert event.without_sampling().without_sampling() == event.without_sampling()
    if any(isinstance(part, UNKNOWN_TO_DP_ACCOUNTING) for part in counted(event)):
        with pytest.raises(mn.Refused, match="dp-accounting has no event"):
            event.to_dp_event()
    else:
        assert "dp_accounting" in type(event.to_dp_event()).__module__


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda by: type(by).__name__)
def test_a_sampling_amplifies_what_it_says_it_does(sampling):
    for release in RELEASES:
        event = ac.Sampled(release, sampling)
        if sampling.amplifies(release):
            assert ac.epsilon(event, 1e-5, "zero_out" if release != RELEASES[-1] else "add_or_remove", "rdp").epsilon > 0
        else:
            with pytest.raises(mn.Refused, match="fixed size"):
                ac.epsilon(event, 1e-5, "zero_out")


def test_what_a_release_uses_and_what_is_left():
    rounds = ac.Repeated(ac.Gaussian(2.0), 12)
    assert (rounds.repetitions, rounds.per_release(12), rounds.per_release(4)) == (12, 1, 3)
    assert counted(rounds.unused(5)) == {ac.Gaussian(2.0): 7}
    assert counted(rounds.unused(12)) == {}
    with pytest.raises(mn.InvalidInput):
        rounds.unused(13)
    for whole in (ac.Gaussian(2.0), ac.Composed((rounds,)), ac.MatrixFactorisation(2.0, 20, 2, 10)):
        assert (whole.repetitions, whole.per_release(4)) == (None, 0)
        with pytest.raises(mn.InvalidInput, match="as a whole"):
            whole.unused(1)


def test_an_event_of_another_kind_is_not_accounted():
    class Free(ac.Gaussian):
        """Claims to cost nothing."""

        def zcdp(self, relation):
            return 0.0

    for attempt in (
        lambda: ac.Repeated(Free(1.0), 2),
        lambda: ac.epsilon(Free(1.0), 1e-5, "add_or_remove"),
        lambda: ac.without_sampling(Free(1.0)),
        lambda: text(Free(1.0)),
        lambda: check_known(object()),
    ):
        with pytest.raises(mn.InvalidInput, match="Unknown event"):
            attempt()
    for attempt in (lambda: counted(ac.Poisson(0.5)), lambda: ac.epsilon(ac.Poisson(0.5), 1e-5, "add_or_remove")):
        with pytest.raises(mn.InvalidInput, match="a way of sampling"):
            attempt()
    with pytest.raises(mn.InvalidInput, match="by="):
        ac.Sampled(ac.Gaussian(1.0), Sampling)


def test_nothing_costs_nothing_by_every_accountant():
    for accountant in ("auto", "pld", "rdp", "zcdp", "analytic"):
        assert ac.epsilon(ac.Composed(()), 1e-5, "add_or_remove", accountant).epsilon == 0


def test_a_name_that_is_taken_cannot_mean_something_else():
    class Gaussian(Event):
        """Another of the name."""

    with pytest.raises(mn.InvalidInput, match="There is an event 'Gaussian' already"):
        register(Gaussian)
    assert parse('{"noise_multiplier":1.0,"type":"Gaussian","version":1}') == ac.Gaussian(1.0)
    register(ac.Gaussian)  # itself again is nothing new


@pytest.mark.parametrize("value", [np.array(1.0), np.array([1.0])])
def test_an_array_is_no_number(value):
    with pytest.raises(mn.InvalidInput):
        ac.Gaussian(value)
    with pytest.raises(mn.InvalidInput):
        ac.Budget(value, 1e-5, privacy_unit="client", neighboring_relation="zero_out")


def test_the_sampled_gaussian_is_exact_at_real_orders():
    """By quadrature in many digits, for tiny divergences too, where a sum of logarithms would cancel."""
    import mpmath as mp

    with mp.workdps(40):
        for q, z, order in ((0.01, 1.0, 1.5), (0.3, 2.0, 7.3), (1e-6, 30.0, 2.5), (1e-3, 0.3, 2.5)):
            likelihood = lambda x, q=q, z=z: (1 - q) + q * mp.exp((2 * x - 1) / (2 * mp.mpf(z) ** 2))  # noqa: E731
            moment = mp.quad(
                lambda x, z=z, order=order, f=likelihood: mp.npdf(x, 0, z) * (f(x) ** order - 1 - order * (f(x) - 1)),
                [-20 * z, -z, 0, z, order, order + z, order + 20 * z],
            )
            exact = float(mp.log1p(moment) / (order - 1))
            found = renyi({ac.Sampled(ac.Gaussian(z), ac.Poisson(q)): 1}, "add_or_remove", (order,))[0]
            assert exact <= found <= exact * (1 + 1e-8)
