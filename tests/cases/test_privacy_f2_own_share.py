"""Another client knows its own share of the noise, and takes it off the total."""

from __future__ import annotations

import math

import pytest

import manent as mn
from manent.privacy import resolve
from tests.cases.observed import Give, shares, stated, units

DELTA = 1e-5
BUDGET = mn.Budget(50.0, DELTA, "client", "zero_out")


def study(clients: int, corrupt: float = 0.0, noise: mn.DistributedNoise | None = None, **changes: object) -> mn.Study:
    layers = [mn.Clip(1.0), noise or mn.DistributedNoise(noise_multiplier=1.0)]
    summation = mn.SecAgg(minimum_cohort=3, modelled=True, corrupt=corrupt, dropped=0.0)
    return mn.Study(Give(4), 1, layers=layers, **{"budget": BUDGET, "summation": summation, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("clients", "without", "true"), [(3, 4.73, 5.98), (4, 4.73, 5.6), (10, 4.73, 5.02)])
def test_the_looker_takes_its_own_share_off(clients: int, without: float, true: float) -> None:
    found = stated(study(clients), units(clients))
    assert set(found) == {"server", "clients", "public"}
    assert found["clients"] == pytest.approx(shares(math.sqrt((clients - 1) / clients), DELTA), rel=2e-3)
    assert found["clients"] == pytest.approx(true, abs=0.06)
    assert found["server"] == found["public"] == pytest.approx(shares(1.0, DELTA), rel=2e-3)
    assert found["public"] == pytest.approx(without, abs=0.02)


def test_skellam_shares_are_fewer_too() -> None:
    found = stated(study(5, noise=mn.DistributedNoise("skellam", 1.0)), units(5))
    assert found["clients"] == pytest.approx(shares(math.sqrt(4 / 5), DELTA), rel=5e-3)


def test_those_who_collude_hold_none_of_the_shares_that_count() -> None:
    found = resolve(study(10, corrupt=0.2), units(10)).privacy
    assert {name: event.event.parties for name, event in found.events.items()} == {  # type: ignore[attr-defined]
        "server": 8,
        "clients": 7,
        "public": 8,
        "colluders": 8,
        "server and colluders": 8,
    }
    local = found.events["server"].event.local_stddev  # type: ignore[attr-defined]
    assert local * math.sqrt(8) == pytest.approx(2**24)
    epsilons = {name: held[0].epsilon for name, held in found.observers.items() if held[0] is not None}
    assert epsilons["server and colluders"] == pytest.approx(shares(1.0, DELTA), rel=2e-3)
    assert epsilons["clients"] == pytest.approx(shares(math.sqrt(7 / 8), DELTA), rel=2e-3)


def test_a_budget_is_kept_against_another_client() -> None:
    declared = study(3, noise=mn.DistributedNoise(), budget=mn.Budget(2.0, DELTA, "client", "zero_out"))
    plan = resolve(declared, units(3))
    assert stated(declared, units(3))["clients"] == pytest.approx(2.0, rel=1e-3)
    assert shares((plan.noise_multiplier or 0) * math.sqrt(2 / 3), DELTA) <= 2.0 * (1 + 1e-6)
    with pytest.raises(mn.Refused, match="against the clients; the budget is 5"):  # 4.73 by all shares, 5.98 by two of three
        mn.check(study(3, budget=mn.Budget(5.0, DELTA, "client", "zero_out")), units(3))


def test_one_certain_share_protects_nobody_from_its_holder() -> None:
    noise = mn.DistributedNoise(noise_multiplier=1.0, dropout=0.5)
    with pytest.raises(mn.Refused, match="only one is certain.*lower dropout"):
        mn.check(mn.Study(Give(4), 1, layers=[mn.Clip(1.0), noise]), units(2))


def test_one_declaration_of_collusion_and_of_those_who_vanish() -> None:
    summation = mn.SecAgg(corrupt=0.1, dropped=0.2, modelled=True)
    filled = resolve(study(20, noise=mn.DistributedNoise(noise_multiplier=1.0), summation=summation), units(20))
    assert filled.privacy.events["server"].event.parties == 14  # type: ignore[attr-defined]
    assert filled.gathering.minimum >= 16
    assert filled.study.layers[1] == mn.DistributedNoise(noise_multiplier=1.0, dropout=0.2, colluders=0.1)
    assert filled.declared.layers[1] == mn.DistributedNoise(noise_multiplier=1.0)
    for less in (0.0, 0.05):
        noise = mn.DistributedNoise(noise_multiplier=1.0, colluders=less)
        with pytest.raises(mn.Refused, match=r"share of 0.1 .*colluders=.*Leave colluders out"):
            mn.check(study(20, noise=noise, summation=summation), units(20))
    more = mn.DistributedNoise(noise_multiplier=1.0, dropout=0.1, colluders=0.2)
    assert resolve(study(20, noise=more, summation=summation), units(20)).privacy.events["server"].event.parties == 14  # type: ignore[attr-defined]
    with pytest.raises(mn.InvalidInput, match="add up to less than 1"):
        mn.check(study(20, noise=mn.DistributedNoise(noise_multiplier=1.0, dropout=0.95), summation=summation), units(20))
