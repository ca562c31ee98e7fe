"""A budget is kept against the dearest of those that it names, and charged for that one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import manent as mn
from manent import accounting as ac
from manent.accounting import Ledger
from manent.privacy import resolve
from manent.privacy.guarantee import Privacy
from manent.storage import MemoryStore
from tests.cases.observed import Give, gaussian, units

DELTA = 1e-5
FIXED = mn.Cohort(size=20)
CENTRAL, LOCAL, SHARES = ([mn.Clip(1.0), noise()] for noise in (mn.CentralNoise, mn.LocalNoise, mn.DistributedNoise))
HIDDEN = mn.SecAgg(corrupt=0.1, dropped=0.1, modelled=True)


def study(layers: Any, against: Any = None, summation: Any = None, cohort: mn.Cohort = FIXED, epsilon: float = 2.0) -> mn.Study:
    budget = mn.Budget(epsilon, DELTA, "client", "replace_one", against)
    return mn.Study(Give(4), 3, cohort, layers, summation, budget=budget)


def test_noise_follows_from_whom_it_is_against() -> None:
    by_default = resolve(study(LOCAL), units(400))
    against_public = resolve(study(LOCAL, ("public",)), units(400))
    assert by_default.privacy.against == ("server", "clients", "public")
    assert by_default.noise_multiplier > 2 * against_public.noise_multiplier  # type: ignore[operator]
    held = {name: found.epsilon for name, (found, _) in against_public.privacy.observers.items() if found is not None}
    assert held["public"] == pytest.approx(2.0, rel=1e-3)
    assert held["server"] > 4 * held["public"]  # stated all the same
    exact = gaussian(by_default.noise_multiplier / 2 / 3**0.5, DELTA)  # type: ignore[operator]
    assert exact == pytest.approx(2.0, rel=1e-3)


def test_where_clients_learn_the_cohort_they_are_the_dearest() -> None:
    plan = resolve(study(CENTRAL, summation=HIDDEN), units(400))
    held = {name: found and found.epsilon for name, (found, _) in plan.privacy.observers.items()}
    assert held["server"] is held["server and colluders"] is None
    assert held["public"] < held["clients"] == held["colluders"] == pytest.approx(2.0, rel=1e-3)
    with pytest.raises(mn.Refused, match="against the clients; the budget is 2"):
        mn.check(study([mn.Clip(1.0), mn.CentralNoise(4.0)], summation=HIDDEN), units(400))
    assert mn.check(study([mn.Clip(1.0), mn.CentralNoise(4.0)], ("public",), summation=HIDDEN), units(400))


REFUSED = {
    "a server that adds the noise": (CENTRAL, ("server",), None, "Nothing protects from the server.*it is trusted.*LocalNoise"),
    "shares in the clear": (SHARES, ("public", "server"), None, "Nothing protects from the server.*one share.*SecAgg"),
    "colluders that are not declared": (LOCAL, ("colluders",), None, "declares none.*corrupt="),
    "a trusted server's friends": (CENTRAL, ("server and colluders",), HIDDEN, "Nothing protects from the server and colluders"),
}


@pytest.mark.parametrize(("layers", "against", "summation", "why"), REFUSED.values(), ids=list(REFUSED))
def test_a_named_observer_without_a_guarantee_is_refused(layers: Any, against: Any, summation: Any, why: str) -> None:
    with pytest.raises(mn.Refused, match=why):
        mn.check(study(layers, against, summation), units(400))


def test_private_training_holds_against_all_that_there_are() -> None:
    local = mn.LocalSGD(lr=0.1, steps=2, batch_size=4, privacy=mn.DPSGD(1.0, 1.0, sampling_probability=0.1))
    data = mn.data.heart_disease()

    def private(against: Any) -> mn.Study:
        budget = mn.Budget(50.0, 1e-4, "example", "add_or_remove", against)
        return mn.Study(mn.FedAvg(mn.LogisticModel(features=13), local), 2, budget=budget)

    found = mn.check(private(("server", "public")), data)
    assert len({observer.epsilon for observer in found.observers}) == 1
    with pytest.raises(mn.Refused, match="declares none"):
        mn.check(private(("colluders",)), data)


@pytest.mark.parametrize("against", [None, ("public",), ("clients",), ("server",)])
def test_a_ledger_is_charged_for_the_dearest_that_its_budget_names(against: Any) -> None:
    declared = mn.Study(Give(4), 3, FIXED, [mn.Clip(1.0), mn.LocalNoise(8.0)])
    ledger = Ledger(MemoryStore())
    ledger.open("given", mn.Budget(20.0, DELTA, "client", "replace_one", against))
    mn.simulate(declared, units(400), seed=1, workers=0, watcher=(), ledger=ledger)
    privacy = resolve(declared, units(400)).privacy
    assert privacy is not None
    name = "server" if against is None else against[0]
    assert ledger.account("given").spent == pytest.approx(
        mn.accounting.epsilon(privacy.events[name], DELTA, "replace_one").epsilon  # type: ignore[index]
    )


def test_a_ledger_against_a_server_refuses_what_does_not_protect_from_it() -> None:
    ledger = Ledger(MemoryStore())
    ledger.open("given", mn.Budget(20.0, DELTA, "client", "replace_one", ("server",)))
    declared = mn.Study(Give(4), 3, FIXED, [mn.Clip(1.0), mn.CentralNoise(8.0)])
    with pytest.raises(mn.Refused, match="Nothing protects from the server"):
        mn.simulate(declared, units(400), seed=1, workers=0, watcher=(), ledger=ledger)


def test_of_those_who_are_named_the_dearest_is_charged() -> None:
    events: dict[Any, Any] = {"clients": ac.Gaussian(1.0), "public": ac.Gaussian(2.0), "server": ac.Gaussian(1.5)}
    plan = Privacy(1, "client", "zero_out", 1e-5, {}, events, ("clients", "public"), 1.0, {})
    assert plan.event == events["clients"]
    assert plan.charged(("public", "server")) == events["server"]
    assert plan.charged(("public",)) == events["public"]
    known: dict[Any, Any] = {"clients": ac.Sampled(events["public"], ac.Poisson(0.1)), "public": events["public"]}
    assert replace(plan, events=known).event == events["public"]
