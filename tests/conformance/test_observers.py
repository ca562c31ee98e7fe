"""Every summation with every noise, cohort, relation and observer: the epsilon that is stated is the one worked out here, or
the study is refused. And who knows more is never told less."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any

import dp_accounting as dp
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent.accounting import Budget
from manent.privacy import resolve
from tests.cases.observed import Give, gaussian, shares, units

CLIENTS, DELTA, Z, ROUNDS = 40, 1e-5, 2.0, 2
SIZE, Q, CUT = 10, 0.1, 36  # more than 36 of 41 are never drawn
SUMMATIONS = {
    "Plain": mn.Plain(),
    "SecAgg": mn.SecAgg(corrupt=0.1, dropped=0.1, modelled=True),
    "SecAgg, nobody colludes": mn.SecAgg(corrupt=0.0, dropped=0.1, modelled=True),
}
NOISES = {
    "central": [mn.Clip(1.0), mn.CentralNoise(Z)],
    "central laplace": [mn.Clip(1.0, order=1), mn.CentralNoise(Z, "laplace")],
    "local": [mn.Clip(1.0), mn.LocalNoise(Z)],
    "local laplace": [mn.Clip(1.0, order=1), mn.LocalNoise(Z, "laplace")],
    "shares": [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=Z)],
    "correlated": [mn.Clip(1.0), mn.CorrelatedNoise(Z)],
}
COHORTS = {
    "everyone": mn.Cohort(),
    "fixed": mn.Cohort(size=SIZE),
    "poisson": mn.Cohort(sampling_probability=Q),
    "cut": mn.Cohort(sampling_probability=Q, maximum=CUT),
    "groups": mn.Cohort(min_separation=2),
}
RELATIONS = ("add_or_remove", "replace_one", "zero_out")
ROWS = [
    (f"{s}; {n}; {c}; {r}; {m}", s, n, c, r, m)
    for s, n, c, r, m in itertools.product(SUMMATIONS, NOISES, COHORTS, RELATIONS, (False, True))
]


def study(summation: str, noise: str, cohort: str, relation: Any, remembers: bool, **changes: Any) -> mn.Study:
    budget = Budget(1e6, DELTA, "client", relation, **changes)
    return mn.Study(Give(4, remembers), ROUNDS, COHORTS[cohort], NOISES[noise], SUMMATIONS[summation], budget=budget)


def refused(summation: str, noise: str, cohort: str, relation: str, remembers: bool) -> bool:
    """Whether there is no honest statement."""
    if cohort in ("poisson", "cut") and (summation != "Plain" or noise == "shares"):
        return True  # a minimum tells how many were drawn; nobody is certain to answer
    if (noise == "correlated") != (cohort == "groups") and noise == "correlated":
        return True  # it needs a distance between participations
    if noise == "correlated" and summation != "Plain":
        return True  # a sum that may be abandoned
    if relation == "replace_one" and noise == "central laplace" and cohort in ("poisson", "cut"):
        return not (cohort == "cut" and remembers)  # no accountant bounds such a sample
    if relation != "add_or_remove":
        return False
    if summation != "Plain":
        return True  # whoever takes part learns who else does
    if cohort == "cut" and (remembers or noise == "central laplace"):
        return True  # nothing pays for what a client that was left out knows
    return noise in ("local", "local laplace", "shares") or cohort in ("fixed", "groups")


@lru_cache
def unsampled(noise: str, relation: str, certain: float) -> float:
    """Of all rounds; `certain` is the variance of the noise that this observer does not know, relative to all."""
    z = Z / (2 if relation == "replace_one" else 1)
    if "laplace" in noise:
        event = dp.SelfComposedDpEvent(dp.LaplaceDpEvent(z), ROUNDS)
        return float(PLDAccountant(value_discretization_interval=1e-4).compose(event).get_epsilon(DELTA))
    if noise == "shares":
        return shares(z * math.sqrt(certain / ROUNDS), DELTA)
    if noise == "correlated":  # one participation in two rounds: one Gaussian release
        return gaussian(z, DELTA)
    return gaussian(z / math.sqrt(ROUNDS), DELTA)


@lru_cache
def expected(summation: str, noise: str, cohort: str, relation: str, remembers: bool, observer: str) -> float | None:
    """epsilon, without manent's accounting."""
    sum_of, asked = SUMMATIONS[summation], {"fixed": SIZE, "groups": CLIENTS // 2}.get(cohort, CLIENTS)
    server = observer in ("server", "server and colluders")
    if server and (noise.startswith(("central", "correlated")) or (noise == "shares" and summation == "Plain")):
        return None
    certain = 1.0
    if noise == "shares":
        lost = 0.0 if isinstance(sum_of, mn.Plain) else sum_of.corrupt + sum_of.dropped
        h = math.ceil((1 - lost) * asked - 1e-9)
        certain = (h - 1) / h if observer == "clients" else 1.0
    knows = server or (summation != "Plain" and observer != "public")
    if knows or noise in ("shares", "correlated") or cohort in ("everyone", "groups"):
        return unsampled(noise, relation, certain)
    if noise.startswith("local") and cohort in ("poisson", "cut"):
        return unsampled(noise, relation, certain)
    if remembers and cohort in ("fixed", "cut"):
        return unsampled(noise, relation, certain)
    if noise == "central laplace" and cohort == "cut" and observer == "clients":
        return unsampled(noise, relation, certain)
    if cohort == "fixed":
        if "laplace" in noise:
            return unsampled(noise, relation, certain)
        others = CLIENTS - (observer == "clients")
        event = dp.SampledWithoutReplacementDpEvent(others, SIZE, dp.GaussianDpEvent(Z / 2))
        accountant = RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
        return float(accountant.compose(event, ROUNDS).get_epsilon(DELTA))
    if "laplace" in noise:  # amplified, with delta 0
        return ROUNDS * math.log1p(Q * math.expm1(1 / Z))
    inner = dp.GaussianDpEvent(Z)
    by = dp.NeighboringRelation.REPLACE_ONE if relation == "replace_one" else dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = PLDAccountant(by, value_discretization_interval=1e-4)
    return float(accountant.compose(dp.PoissonSampledDpEvent(Q, inner), ROUNDS).get_epsilon(DELTA))


@pytest.mark.parametrize(
    ("summation", "noise", "cohort", "relation", "remembers"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_what_is_stated_is_true_or_the_study_is_refused(
    summation: str, noise: str, cohort: str, relation: str, remembers: bool
) -> None:
    declared = study(summation, noise, cohort, relation, remembers)
    if refused(summation, noise, cohort, relation, remembers):
        with pytest.raises(mn.Refused):
            resolve(declared, units(CLIENTS))
        return
    plan = resolve(declared, units(CLIENTS))
    colluding = summation == "SecAgg" and (SIZE if cohort == "fixed" else CLIENTS) * 0.1 >= 1
    names = ["server", "clients", "public", "colluders", "server and colluders"][: 5 if colluding else 3]
    assert [observer.name for observer in plan.statement.observers] == names
    for name in names:
        true = expected(summation, noise, cohort, relation, remembers, name)
        held, _ = plan.privacy.observers[name]
        if true is None:
            assert held is None
            continue
        # Accountants of the same mechanism differ in looseness alone, and one who knows more bounds one who knows less.
        least = min(true, unsampled(noise, relation, 1.0)) if cohort == "fixed" else true
        assert held.epsilon >= least * (1 - (0.1 if noise == "central laplace" else 5e-3))
        assert held.epsilon <= true * (1.35 if noise == "central laplace" else 1.005) + 1e-3
    ordered(plan)


LESS_AND_MORE = (
    ("public", "clients"),
    ("public", "colluders"),
    ("public", "server and colluders"),
    ("colluders", "server and colluders"),
    ("server", "server and colluders"),
)


def ordered(plan: Any) -> None:
    """Who knows more is never told a smaller epsilon, and what is charged is that of the dearest."""
    privacy = plan.privacy
    found = {
        name: math.inf if held is None else min(held.epsilon, bare(privacy.events[name], privacy))
        for name, (held, _) in privacy.observers.items()
    }
    for less, more in LESS_AND_MORE:
        if more in found:
            assert found[less] <= found[more] * (1 + 1e-9), (less, more, found)
    charged = mn.accounting.epsilon(privacy.event, privacy.delta, privacy.relation).epsilon
    assert charged >= max(epsilon for name, epsilon in found.items() if name in privacy.against) * (1 - 1e-9)


def bare(event: Any, privacy: Any) -> float:
    """epsilon against one who knows the sample, who learns all that others learn; infinite where sums then move further."""
    if privacy.relation == "add_or_remove":
        return math.inf
    return mn.accounting.epsilon(event.without_sampling(), privacy.delta, privacy.relation).epsilon


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["central", "local", "shares"]),
    st.sampled_from(["Plain", "SecAgg", "public beacon"]),
    st.sampled_from([None, "fixed", "poisson", "cut"]),
    st.integers(2, 60),
    st.floats(0.3, 30),
    st.integers(1, 12),
    st.floats(0, 0.2),
    st.data(),
)
def test_who_knows_more_is_never_told_less(
    noise: str, summation: str, cohort: str | None, clients: int, z: float, rounds: int, corrupt: float, data: st.DataObject
) -> None:
    layers = {
        "central": [mn.Clip(1.0), mn.CentralNoise(z)],
        "local": [mn.Clip(1.0), mn.LocalNoise(z)],
        "shares": [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=z)],
    }[noise]
    q, most = data.draw(st.floats(0.01, 1.0)), data.draw(st.integers(1, clients))
    who = {
        None: mn.Cohort(),
        "fixed": mn.Cohort(size=most),
        "poisson": mn.Cohort(sampling_probability=q),
        "cut": mn.Cohort(sampling_probability=q, maximum=most),
    }[cohort]
    beacon: Any = "public" if summation == "public beacon" else "server"
    how = mn.Plain() if summation == "Plain" else mn.SecAgg(corrupt=corrupt, minimum_cohort=3, modelled=True, beacon=beacon)
    relation = data.draw(st.sampled_from(RELATIONS))
    budget = Budget(1e9, 1e-6, "client", relation)  # type: ignore[arg-type]
    try:
        plan = resolve(mn.Study(Give(4), rounds, who, layers, how, budget=budget), units(clients))
    except mn.Refused:
        return
    ordered(plan)
