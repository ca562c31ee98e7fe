"""`add_or_remove` is refused where one client more takes another's place, or where noise tells how many there are."""

from __future__ import annotations

from typing import Any

import pytest

import manent as mn
from manent.privacy import resolve
from tests.cases.observed import Give, gaussian, laplace, shares, stated, units

DELTA = 1e-5
SHARES = [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=1.0)]
LOCAL = [mn.Clip(1.0), mn.LocalNoise(1.0)]
LOCAL_LAPLACE = [mn.Clip(1.0, order=1), mn.LocalNoise(1.0, "laplace")]
CENTRAL_LAPLACE = [mn.Clip(1.0, order=1), mn.CentralNoise(1.0, "laplace")]
GAUSSIAN = [mn.Clip(1.0), mn.CentralNoise(1.0)]
HIDDEN = {"summation": mn.SecAgg(modelled=True, corrupt=0.0, dropped=0.0)}
FIXED, SOME = mn.Cohort(size=50), mn.Cohort(sampling_probability=0.5)


def study(layers: Any, relation: str, cohort: mn.Cohort, remembers: bool = False, **more: Any) -> mn.Study:
    budget = mn.Budget(50.0, DELTA, "client", relation)  # type: ignore[arg-type]
    return mn.Study(Give(4, remembers), 1, cohort, layers, budget=budget, **more)


REFUSED = {
    "shares": (SHARES, FIXED, HIDDEN),
    "central Laplace": (CENTRAL_LAPLACE, FIXED, {}),
    "local Laplace": (LOCAL_LAPLACE, FIXED, {}),
    "central Gaussian": (GAUSSIAN, FIXED, {}),
    "central Gaussian, all that there are": (GAUSSIAN, mn.Cohort(size=100), {}),
    "clients with memory": (GAUSSIAN, FIXED, {"remembers": True}),
    "a cut cohort, clients with memory": (GAUSSIAN, mn.Cohort(sampling_probability=0.1, maximum=60), {"remembers": True}),
    "a cut cohort that one client can tell": (GAUSSIAN, mn.Cohort(sampling_probability=0.5, maximum=50), {}),
    "a cohort that is always cut": (GAUSSIAN, mn.Cohort(sampling_probability=1.0, maximum=50), {}),
    "a cut cohort, Laplace": (CENTRAL_LAPLACE, mn.Cohort(sampling_probability=0.1, maximum=60), {}),
    "groups": (GAUSSIAN, mn.Cohort(min_separation=2), {}),
    "local noise, everyone": (LOCAL, mn.Cohort(), {}),
    "local noise, a Poisson cohort": (LOCAL, SOME, {}),
    "local Laplace, a Poisson cohort": (LOCAL_LAPLACE, SOME, {}),
    "shares, everyone": (SHARES, mn.Cohort(), HIDDEN),
    "shares, everyone, in the clear": (SHARES, mn.Cohort(), {}),
}


@pytest.mark.parametrize(("layers", "cohort", "more"), REFUSED.values(), ids=list(REFUSED))
def test_it_is_refused_and_the_cure_is_named_and_cures(layers: Any, cohort: mn.Cohort, more: Any) -> None:
    with pytest.raises(mn.Refused, match="zero_out.*replace_one"):
        mn.check(study(layers, "add_or_remove", cohort, **more), units(100))
    for relation in ("zero_out", "replace_one") if layers is not CENTRAL_LAPLACE else ("zero_out",):
        assert stated(study(layers, relation, cohort, **more), units(100))["public"] is not None


@pytest.mark.parametrize(("layers", "cohort", "more"), REFUSED.values(), ids=list(REFUSED))
def test_without_a_budget_another_relation_is_stated(layers: Any, cohort: mn.Cohort, more: Any) -> None:
    settings = {name: value for name, value in more.items() if name != "remembers"}
    free = mn.Study(Give(4, more.get("remembers", False)), 1, cohort, layers, **settings)
    if layers is not CENTRAL_LAPLACE or cohort is FIXED:
        assert resolve(free, units(100)).privacy.relation in ("zero_out", "replace_one")


def test_it_stays_where_the_population_is_not_visible() -> None:
    everyone, some = (stated(study(GAUSSIAN, "add_or_remove", cohort), units(100)) for cohort in (mn.Cohort(), SOME))
    assert everyone["public"] == pytest.approx(gaussian(1.0, DELTA), rel=1e-6)
    assert some["public"] < everyone["public"]
    cut = mn.Cohort(sampling_probability=0.1, maximum=60)  # more than sixty of a hundred: about 1e-28
    rare = stated(study(GAUSSIAN, "add_or_remove", cut), units(100))
    uncut = stated(study(GAUSSIAN, "add_or_remove", mn.Cohort(sampling_probability=0.1)), units(100))
    assert rare == pytest.approx(uncut)
    for relation in ("add_or_remove", "zero_out"):
        exact = stated(study(CENTRAL_LAPLACE, relation, mn.Cohort()), units(100))
        assert exact["public"] == pytest.approx(laplace(1.0, DELTA), abs=1e-3)


def test_replacing_moves_a_sum_by_twice_the_norm() -> None:
    for layers, more, one, two in (
        (SHARES, HIDDEN, shares(1.0, DELTA), shares(0.5, DELTA)),
        (CENTRAL_LAPLACE, {}, laplace(1.0, DELTA), laplace(0.5, DELTA)),
        (LOCAL_LAPLACE, {}, laplace(1.0, DELTA), laplace(0.5, DELTA)),
    ):
        for relation, expected in (("zero_out", one), ("replace_one", two)):
            assert stated(study(layers, relation, FIXED, **more), units(100))["public"] == pytest.approx(expected, abs=5e-3)
