"""Local noise tells by its size how many were sampled."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta

import manent as mn
from manent.privacy import resolve
from tests.cases.observed import Give, federation, gaussian, stated, units

DELTA = 1e-5
HALF = mn.Cohort(sampling_probability=0.5)


def study(relation: str | None, rounds: int = 1, cohort: mn.Cohort = HALF, size: int = 4) -> mn.Study:
    budget = None if relation is None else mn.Budget(50.0, DELTA, "client", relation)  # type: ignore[arg-type]
    return mn.Study(Give(size), rounds, cohort, [mn.Clip(1.0), mn.LocalNoise(1.0)], budget=budget)


def test_a_client_more_or_less_is_seen_although_all_vectors_are_zero() -> None:
    """The bound holds with probability 1 - 1e-9; the epsilon that once was stated lies below it."""
    size, fail, seen = 300, 1e-9, []
    for clients, rounds in ((2, 3_000), (1, 10_000)):
        declared = study(None, rounds, size=size)
        mn.simulate(declared, federation(np.zeros((clients, size))), seed=clients, workers=0, watcher=())
        totals = np.array(declared.algorithm.heard)  # type: ignore[attr-defined]
        seen.append(int((totals.var(axis=1) > 1.5).sum()))
    low = float(beta.ppf(fail / 2, seen[0], 3_000 - seen[0] + 1))
    high = float(beta.ppf(1 - fail / 2, seen[1] + 1, 10_000 - seen[1]))
    assert math.log((low - DELTA) / high) > 4.06
    with pytest.raises(mn.Refused, match="the noise in a total tells how many.*zero_out.*replace_one"):
        mn.check(study("add_or_remove"), units(100))


@pytest.mark.parametrize(("relation", "z"), [("zero_out", 1.0), ("replace_one", 0.5)])
def test_nothing_is_amplified_by_a_poisson_sample(relation: str, z: float) -> None:
    expected = gaussian(z, DELTA)
    for cohort in (HALF, mn.Cohort(), mn.Cohort(sampling_probability=0.01), mn.Cohort(sampling_probability=0.5, maximum=99)):
        for epsilon in stated(study(relation, cohort=cohort), units(100)).values():
            assert epsilon == pytest.approx(expected, rel=1e-6)


def test_the_total_of_one_client_tells_that_it_was_drawn() -> None:
    """Why: a release that is not exactly zero has all the noise of that client, and no more."""
    declared = study(None, 200, size=50)
    mn.simulate(declared, federation(np.zeros((1, 50))), seed=1, workers=0, watcher=())
    silent = [bool((total == 0).all()) for total in declared.algorithm.heard]  # type: ignore[attr-defined]
    assert 0 < sum(silent) < 200  # each happens with probability one half: both fail to happen with 2^-199


def test_the_number_is_the_same_in_a_cohort_of_fixed_size_which_may_amplify() -> None:
    fixed = mn.Study(Give(4), 1, mn.Cohort(size=5), [mn.Clip(1.0), mn.LocalNoise(6.0)])
    found = stated(fixed, units(100))
    assert resolve(fixed, units(100)).privacy.relation == "replace_one"
    assert found["server"] == pytest.approx(gaussian(3.0, 1e-6), rel=1e-2)
    assert found["public"] <= found["clients"] < found["server"]  # type: ignore[operator]
