"""What a site decides: a table of studies and policies with the expected answer; and policies read strictly."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent.accounting import Ledger, epsilon, without_sampling
from manent.core.canonical import canonical
from manent.core.errors import InvalidInput
from manent.crypto import SystemRandom
from manent.crypto.identity import SigningKey
from manent.network.trust.policy import (
    Decision,
    Facts,
    Policy,
    approve,
    approved,
    charged,
    conditions,
    decide,
    installed_version,
    load_now,
    on_mains,
)
from manent.network.wire.bundle import Bundle
from manent.privacy import resolve
from manent.rounds.declared import Sites
from manent.storage import MemoryStore
from tests.rounds.test_declared import paths

ADA, EVE = SigningKey(b"a" * 32), SigningKey(b"e" * 32)
ROSTER = [f"site-{i}" for i in range(12)]
SCHEMA = mn.Schema(shape=(4,), classes=3, columns=(mn.Column("age", "years", 0, 120),))
BUDGET = mn.Budget(10.0, 1e-5, "example", "add_or_remove")
TIGHT = replace(BUDGET, epsilon=2.0)
CODE = {"study.py": "study = 1\n"}

MODEL = mn.SoftmaxModel(4, 3)
STEPS = mn.LocalSGD(lr=0.1, steps=2, batch_size=4, privacy=mn.DPSGD(1.0, 1.5, examples=400))
LITTLE = mn.DPSGD(1.0, 0.3, sampling_probability=1.0)
SECAGG = mn.SecAgg(minimum_cohort=5)
NOISY = mn.Study(mn.FedAvg(MODEL, STEPS), rounds=3, summation=SECAGG, cohort=mn.Cohort(minimum=6))  # for each example
OPEN = replace(NOISY, algorithm=mn.FedAvg(MODEL, mn.LocalSGD(lr=0.1, epochs=1), weighting="equal"))  # no differential privacy
SHARES = replace(OPEN, layers=(mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=5.0)))  # for each client
CENTRAL = replace(OPEN, layers=(mn.Clip(1.0), mn.CentralNoise(5.0)))
LAYOUT = {"blocks": [{"type": "Block", "name": "parameters", "entries": [], "bound": None}], "type": "Layout"}


def network(shape: list[int]) -> Callable[[dict[str, Any]], None]:
    """Makes the model of a study's plain data one of torch, with one tensor of this shape."""

    def change(document: dict[str, Any]) -> None:
        block = {**LAYOUT["blocks"][0], "entries": [{"type": "Entry", "name": "w", "shape": shape}]}
        kind = {"type": "TorchModel", "network": "Linear", "kind": "multiclass", "classes": 3}
        document["algorithm"]["model"] = {**kind, "layout": {"type": "Layout", "blocks": [block]}}

    return change


TEXT = f"""
[researchers]
Ada = "{ADA.public.hex()}"
[code]
rule = "none"
isolation = "required"
[cohort]
minimum = 8
survivors = 5
[summation]
allowed = ["SecAgg"]
adversary = "active"
corrupt = 0.1
post_quantum = true
[privacy]
required = true
epsilon = 4.0
delta = 1e-5
unit = "example"
against = ["server", "clients", "public"]
[data.heart]
budget = {{ epsilon = 10.0, delta = 1e-5, privacy_unit = "example", neighboring_relation = "add_or_remove" }}
[limits]
model_mb = 1
memory_mb = 10
seconds = 60
rounds = 100
[work]
hours = ["20:00-06:00"]
mains_power = true
load = 0.5
"""
POLICY = Policy.read(TEXT)
FREE = {"required": False, "epsilon": None, "delta": None, "unit": None, "against": ()}
BY_CLIENT = {"data": {"heart": {"budget": mn.Budget(10.0, 1e-5, "client", "add_or_remove")}}}
SHARED = {"data": {"heart": {"budget": mn.Budget(10.0, 1e-5, "client", "zero_out")}}}


def policy_with(changes: dict[str, Any]) -> Policy:
    """The policy with some keys of its sections changed."""
    made: dict[str, Any] = {}
    for section, keys in changes.items():
        if section == "data":
            made[section] = {name: replace(POLICY.data["heart"], **rule) for name, rule in keys.items()}
        elif section == "researchers":
            made[section] = keys
        else:
            made[section] = replace(getattr(POLICY, section), **keys)
    return replace(POLICY, **made)


@dataclass(frozen=True)
class Row:
    """A study, what is changed in the policy, in the facts and in the bundle, and the rules by which it is refused."""

    study: mn.Study = NOISY
    refused: tuple[str, ...] = ()
    policy: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    pins: tuple[str, ...] = ()
    roster: int = 12
    data: str = "heart"
    plain: Callable[[dict[str, Any]], None] | None = None
    schema: mn.Schema = SCHEMA
    sign: Callable[[Bundle], Bundle] = lambda bundle: bundle.sign(ADA)
    later: bool = False
    spent: float | None = None

    def bundle(self) -> Bundle:
        made = Bundle.of(self.study, self.schema, self.data, self.code, self.pins)
        if self.plain is not None:
            document = dict(made.study)
            self.plain(document)
            made = replace(made, study=document)
        return self.sign(made)

    def ledger(self, policy: Policy) -> Ledger:
        ledger = Ledger(MemoryStore())
        rule = policy.data.get("heart")
        if rule is not None and rule.budget is not None:
            ledger.open("heart", rule.budget, rule.period)
        if self.spent is not None:
            relation = "add_or_remove"
            unit = rule.budget.privacy_unit
            ledger.reserve(
                "heart", mn.accounting.training(self.spent, 1), privacy_unit=unit, neighboring_relation=relation, study="x",
                random=SystemRandom(),
            )  # fmt: skip
        return ledger

    def decide(self) -> Decision:
        policy = policy_with(self.policy)
        usual: dict[str, Any] = {"now": datetime(2030, 1, 1, 22, 30), "isolated": True, "load": 0.1, "mains_power": True}
        facts = Facts(**{**usual, "ledger": self.ledger(policy), **self.facts})
        return decide(policy, self.bundle(), ROSTER[: self.roster], facts)


def altered(bundle: Bundle) -> Bundle:
    return replace(bundle.sign(ADA), study={**bundle.study, "rounds": 4})


def smallest(document: dict[str, Any]) -> None:
    document["layers"][0]["norm"] = 5e-324


def set_to(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *way, last = path.split(".")
        node: Any = document
        for part in way:
            node = node[part]
        node[last] = value

    return change


PLAIN_TOO = {"summation": {"allowed": ("SecAgg", "Plain")}}
REVIEWED = {"code": {"rule": "reviewed"}}
LISTED = {"code": {"rule": "listed"}}
HASH = Bundle.of(NOISY, SCHEMA, "heart", CODE).code_hash
RIGHT = Bundle.of(NOISY, SCHEMA, "heart", CODE).hash
NOON = datetime(2030, 1, 1, 12, 0)
BY_HASH = {"code": {"rule": "listed", "hashes": (HASH,)}}
UNACCOUNTED = {"privacy": FREE, "data": {"heart": {"budget": None}}}
TREE = replace(CENTRAL, layers=(mn.Clip(1.0), mn.CorrelatedNoise(8.0)), summation=mn.Plain(), cohort=mn.Cohort(min_separation=2))
CORRELATED = {
    **PLAIN_TOO,
    "privacy": {"against": ("public",)},
    "cohort": {"minimum": 6, "survivors": 3},
    "data": {"heart": {"budget": mn.Budget(10.0, 1e-5, "client", "zero_out")}},
}


def pinned(*pins: str, refused: tuple[str, ...] = ()) -> Row:
    """Listed code that needs packages, at a site that has some."""
    listed = {"code": {"rule": "listed", "hashes": (Bundle.of(NOISY, SCHEMA, "heart", CODE, pins).code_hash,)}}
    here = {"torch": "2.13.0+cpu", "Some.Thing": "1.0.0"}
    return Row(refused=refused, policy=listed, facts={"installed": here.get}, code=CODE, pins=pins)


TABLE = {
    # Who, and what travels.
    "what the policy asks for": Row(),
    "nobody signed": Row(refused=("signature",), sign=lambda b: b),
    "altered after it was signed": Row(refused=("signature",), sign=altered),
    "another name under the signature": Row(
        refused=("signature",), sign=lambda b: replace(b.sign(EVE), researcher=ADA.public.hex())
    ),
    "a stranger": Row(refused=("researchers",), sign=lambda b: b.sign(EVE)),
    "a stranger, even if all else is wrong too": Row(OPEN, ("researchers",), sign=lambda b: b.sign(EVE), data="lungs"),
    "nobody is allowed": Row(refused=("researchers",), policy={"researchers": {}}),
    "two researchers": Row(
        policy={"researchers": {"Ada": ADA.public.hex(), "Eve": EVE.public.hex()}}, sign=lambda b: b.sign(EVE)
    ),
    # Code.
    "code where none may be": Row(refused=("code.rule",), code=CODE),
    "code that is listed": Row(policy=BY_HASH, code=CODE),
    "listed code, other settings": Row(replace(NOISY, rounds=2), policy=BY_HASH, code=CODE),
    "code that is not listed": Row(refused=("code.hashes",), policy=LISTED, code=CODE),
    "listed code with one more file": Row(
        refused=("code.hashes",), policy=BY_HASH, code={**CODE, "more.py": ""}
    ),
    "no code where code must be listed": Row(policy=LISTED),
    "code that was reviewed": Row(policy=REVIEWED, code=CODE, facts={"approved": frozenset({RIGHT})}),
    "code that was not reviewed": Row(refused=("code.rule",), policy=REVIEWED, code=CODE),
    "no code, and not reviewed": Row(refused=("code.rule",), policy=REVIEWED),
    "altered after it was approved": Row(
        replace(NOISY, rounds=4), ("code.rule",), REVIEWED, {"approved": frozenset({RIGHT})}, CODE
    ),
    "code where nothing isolates it": Row(
        refused=("code.isolation",), policy=BY_HASH, code=CODE, facts={"isolated": False}
    ),
    "code where isolation is preferred": Row(
        policy={"code": {"rule": "listed", "hashes": (HASH,), "isolation": "preferred"}}, code=CODE, facts={"isolated": False}
    ),
    "no code where nothing isolates it": Row(facts={"isolated": False}),
    "a network and its code": Row(policy=BY_HASH, code=CODE, plain=network([3, 4])),
    "a network without code": Row(refused=("study",), plain=network([3, 4])),
    # Packages.
    "packages that are here": pinned("torch==2.13.0", "Some.Thing==1.0"),
    "an extra of a package that is here": pinned("torch[opt]==2.13.0"),
    "a package for other processors": pinned("torch==2.13.0+rocm", refused=("requirements",)),
    "another version": pinned("Some.Thing==1.0", "torch==2.12.0", refused=("requirements",)),
    "a package that is not here": pinned("flax==0.10.0", refused=("requirements",)),
    # Data.
    "data it does not have": Row(refused=("data",), data="lungs"),
    "no data set at all": Row(refused=("data",), policy={"data": {}}),
    # What cannot be stated.
    "a layer of its own": Row(refused=("study",), plain=set_to("layers", [{"type": "study:Clip"}])),
    "a field that nobody knows": Row(refused=("study",), plain=set_to("secret", 1)),
    "a budget without noise": Row(replace(OPEN, budget=TIGHT), ("study",)),
    "less noise than its budget": Row(
        replace(NOISY, algorithm=mn.FedAvg(MODEL, replace(STEPS, privacy=LITTLE)), budget=TIGHT),
        ("study",),
    ),
    "a schema that contradicts itself": Row(refused=("study",), schema=mn.Schema(shape=(4,), classes=1)),
    "a query without bounds": Row(mn.Study(mn.Mean("height")), ("study",), UNACCOUNTED),
    "more sites than the roster has": Row(replace(NOISY, cohort=mn.Cohort(size=30)), ("study",)),
    "a roster of one": Row(refused=("study",), roster=1),
    "an empty roster": Row(refused=("study",), roster=0),
    # Cohorts.
    "exactly as many": Row(replace(NOISY, cohort=mn.Cohort(size=8, minimum=6))),
    "one too few are asked": Row(replace(NOISY, cohort=mn.Cohort(size=7, minimum=6)), ("cohort.minimum",)),
    "everyone, of too few": Row(refused=("cohort.minimum",), roster=7),
    "groups that take turns": Row(replace(NOISY, cohort=mn.Cohort(min_separation=2, minimum=5)), ("cohort.minimum",)),
    "a Poisson cohort": Row(
        replace(NOISY, cohort=mn.Cohort(sampling_probability=0.9, minimum=6)), ("cohort.minimum",)
    ),
    "a Poisson cohort of everyone": Row(replace(NOISY, cohort=mn.Cohort(sampling_probability=1.0, minimum=6))),
    "a release with four": Row(
        replace(NOISY, summation=mn.SecAgg(minimum_cohort=3), cohort=mn.Cohort(size=8)), policy={"cohort": {"survivors": 7}},
        refused=("cohort.survivors",),
    ),
    "a release with one": Row(
        replace(NOISY, summation=mn.Plain(), cohort=mn.Cohort()), ("cohort.survivors",), PLAIN_TOO
    ),
    "four hospitals": Row(
        replace(NOISY, summation=mn.SecAgg(minimum_cohort=3), cohort=mn.Cohort()),
        policy={"cohort": {"minimum": 4, "survivors": 3}},
        roster=4,
    ),
    # Summations.
    "in the clear": Row(replace(NOISY, summation=mn.Plain()), ("summation.allowed",)),
    "in the clear where nothing is declared": Row(replace(NOISY, summation=None), ("summation.allowed",)),
    "in the clear where that may be": Row(replace(NOISY, summation=mn.Plain()), policy=PLAIN_TOO),
    "masks where vectors must be seen": Row(refused=("summation.allowed",), policy={"summation": {"allowed": ("Plain",)}}),
    "a model of masks": Row(replace(NOISY, summation=replace(SECAGG, modelled=True)), ("summation.allowed",)),
    "a server that does not lie": Row(replace(NOISY, summation=replace(SECAGG, adversary="curious")), ("summation.adversary",)),
    "a server that does not lie, where that is believed": Row(
        replace(NOISY, summation=replace(SECAGG, adversary="curious")), policy={"summation": {"adversary": "curious"}}
    ),
    "fewer colluders": Row(replace(NOISY, summation=replace(SECAGG, corrupt=0.05)), ("summation.corrupt",)),
    "more colluders": Row(replace(NOISY, summation=replace(SECAGG, corrupt=0.2))),
    "older keys": Row(replace(NOISY, summation=replace(SECAGG, post_quantum=False)), ("summation.post_quantum",)),
    "older keys where they will do": Row(
        replace(NOISY, summation=replace(SECAGG, post_quantum=False)), policy={"summation": {"post_quantum": False}}
    ),
    # Differential privacy.
    "none where it must be": Row(OPEN, ("privacy.required", "data.heart.budget")),
    "none where none need be": Row(OPEN, policy=UNACCOUNTED),
    "none on data with a budget": Row(OPEN, ("data.heart.budget",), {"privacy": FREE}),
    "too large an epsilon": Row(refused=("privacy.epsilon",), policy={"privacy": {"epsilon": 0.05}}),
    "a budget with too large an epsilon": Row(replace(NOISY, budget=BUDGET), ("privacy.epsilon",)),
    "a budget with a small one": Row(replace(NOISY, budget=TIGHT)),
    "numbers that nothing is divided by": Row(CENTRAL, ("study",), BY_CLIENT, plain=smallest),
    "too large a delta": Row(refused=("privacy.delta",), policy={"privacy": {"delta": 1e-9}}),
    "examples where all data must be": Row(
        refused=("privacy.unit", "data.heart.budget"), policy={"privacy": {"unit": "client"}, **BY_CLIENT}
    ),
    "all data where examples must be": Row(SHARES, policy={**SHARED}),
    "noise of a trusted server": Row(CENTRAL, ("privacy.against",), BY_CLIENT),
    "noise of a server that is trusted": Row(
        CENTRAL, policy={"privacy": {"against": ("clients", "public")}, **SHARED}
    ),
    "correlated noise, released whoever answers": Row(TREE, ("cohort.survivors",), CORRELATED),
    "correlated noise, where that may be": Row(TREE, policy={**CORRELATED, "cohort": {"minimum": 6, "survivors": 1}}),
    "correlated noise under masks": Row(replace(TREE, summation=SECAGG), ("study",), CORRELATED),
    "evaluation without noise": Row(
        replace(NOISY, algorithm=replace(NOISY.algorithm, evaluation=mn.Evaluation())), ("privacy.required", "data.heart.budget")
    ),
    # Budgets.
    "a budget that is spent": Row(refused=("data.heart.budget",), spent=0.5),
    "a budget that is half spent": Row(spent=1.0),
    "a period with room": Row(policy={"data": {"heart": {"period": mn.accounting.Period(9.0, 30)}}}),
    "a period that is spent": Row(
        refused=("data.heart.budget",),
        policy={"data": {"heart": {"period": mn.accounting.Period(4.4, 30)}}},
        spent=1.0,
        later=True,
    ),
    "a period that is too small": Row(
        refused=("data.heart.budget",), policy={"data": {"heart": {"period": mn.accounting.Period(0.01, 30)}}}
    ),
    "a budget of another unit": Row(SHARES, ("data.heart.budget",)),
    "no ledger": Row(refused=("data.heart.budget",), facts={"ledger": None}),
    "a ledger without this data set": Row(refused=("data.heart.budget",), facts={"ledger": Ledger(MemoryStore())}),
    "a budget raised in the policy alone": Row(
        refused=("data.heart.budget",),
        policy={"data": {"heart": {"budget": replace(BUDGET, epsilon=99.0)}}},
        facts={"ledger": "old"},
    ),
    # Sizes.
    "too many rounds": Row(replace(NOISY, rounds=101), ("limits.rounds",)),
    "too large a model": Row(refused=("limits.model_mb",), code=CODE, policy=BY_HASH, plain=network([250_001])),
    "the largest model": Row(code=CODE, policy=BY_HASH, plain=network([250_000])),
    "a model of terabytes": Row(refused=("limits.model_mb", "limits.memory_mb"), plain=network([2**20, 2**19])),
    "a built-in model of terabytes": Row(
        refused=("limits.model_mb", "limits.memory_mb"), plain=set_to("algorithm.model.features", 10**12)
    ),
    "too much memory": Row(
        refused=("limits.memory_mb",),
        code=CODE,
        policy={**BY_HASH, "limits": {"memory_mb": 3.0}},
        plain=network([200_000]),
    ),
    # Hours and conditions.
    "at noon": Row(refused=("work.hours",), facts={"now": NOON}, later=True),
    "just before six": Row(facts={"now": datetime(2030, 1, 1, 5, 59)}),
    "at six": Row(refused=("work.hours",), facts={"now": datetime(2030, 1, 1, 6, 0)}, later=True),
    "at any hour": Row(policy={"work": {"hours": ("00:00-24:00",)}}, facts={"now": NOON}),
    "at one of two spans": Row(policy={"work": {"hours": ("20:00-06:00", "12:00-13:00")}}, facts={"now": NOON}),
    "a busy machine": Row(refused=("work.load",), facts={"load": 0.51}, later=True),
    "a machine that does not tell its load": Row(refused=("work.load",), facts={"load": None}, later=True),
    "any load": Row(policy={"work": {"load": None}}, facts={"load": 7.0}),
    "on battery": Row(refused=("work.mains_power",), facts={"mains_power": False}, later=True),
    "a machine that does not tell its power": Row(refused=("work.mains_power",), facts={"mains_power": None}, later=True),
    "on battery where that will do": Row(policy={"work": {"mains_power": False}}, facts={"mains_power": False}),
    "at noon, and data it does not have": Row(refused=("data", "work.hours"), facts={"now": NOON}, data="lungs"),
    "everything at once": Row(
        replace(OPEN, rounds=1, summation=mn.Plain(), cohort=mn.Cohort(size=2)),
        ("code.rule", "work.hours", "cohort.minimum", "cohort.survivors", "summation.allowed", "privacy.required",
         "data.heart.budget"),
        facts={"now": NOON},
        code=CODE,
    ),
}  # fmt: skip


def resolved(row: Row) -> Row:
    if row.facts.get("ledger") == "old":
        return replace(row, facts={**row.facts, "ledger": Row().ledger(POLICY)})
    return row


@pytest.mark.parametrize("name", TABLE)
def test_each_study_gets_its_answer(name):
    row = resolved(TABLE[name])
    decision = row.decide()
    assert tuple(refusal.rule for refusal in decision.refusals) == row.refused, decision.reasons
    assert decision.allowed == (not row.refused)
    assert decision.later == row.later
    for refusal, reason in zip(decision.refusals, decision.reasons, strict=True):
        assert all((refusal.demands, refusal.found, refusal.change))
        assert reason == f"{refusal.rule}: this site demands {refusal.demands}; found {refusal.found}. {refusal.change}"
        assert "\n" not in reason
        assert reason.endswith(".")


def test_the_table_is_long_and_names_every_rule():
    assert len(TABLE) >= 40
    sections = {name for row in TABLE.values() for name in row.refused}
    keys = {
        f"{section}.{key}"
        for section, table in tomllib.loads(TEXT).items()
        if section not in ("researchers", "data")
        for key in table
    }
    # What is enforced while code runs, and what the code's rule is about.
    elsewhere = {"limits.seconds"}
    assert keys - elsewhere <= sections | {"privacy.unit", "privacy.against"}


def test_a_reason_says_what_is_demanded_what_was_found_and_what_to_change():
    for name, words in {
        "one too few are asked": ("at least 8 sites", "7 of 12", "size=8"),
        "in the clear": ("SecAgg", "Plain", "summation=SecAgg"),
        "a stranger": ("its policy names", EVE.public.hex(), "Ask the site"),
        "too large an epsilon": ("at most 0.05", "against the server", "Budget(epsilon=0.05)"),
        "noise of a trusted server": ("against the server", "trusted", "DistributedNoise"),
        "a budget that is spent": ("epsilon 10", "spent or reserved", "fewer rounds"),
        "altered after it was approved": ("approved", "nobody did", "site review"),
        "at noon": ("20:00-06:00", "12:00", "Wait"),
        "a layer of its own": ("one that is refused", "'study:Clip'", "same version"),
    }.items():
        reason = " ".join(TABLE[name].decide().reasons)
        assert [word for word in words if word not in reason] == [], reason


BASES = [NOISY, SHARES, CENTRAL, TREE, mn.Study(mn.Histogram("age", 8))]
NUMBERS = st.sampled_from([0, 1, -1, 0.5, 1.0, 5e-324, 1e-10, 1e300, 2**31, 2**62, 100_000, 99, None])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(BASES), st.data())
def test_whatever_the_numbers_are_there_is_an_answer(study, data):
    document: Any = json.loads(canonical(study.to_plain()))
    for _ in range(2):
        *way, last = data.draw(st.sampled_from(paths(document)))
        node = document
        for part in way:
            node = node[part]
        if isinstance(node[last], int | float | None):
            node[last] = data.draw(NUMBERS)
    limits = {"limits": {"model_mb": 1000, "memory_mb": 10_000, "rounds": 1000}, **PLAIN_TOO}
    decision = Row(study, policy=limits, plain=lambda plain: plain.update(document)).decide()
    assert decision.plan is not None or decision.refusals


def test_the_plan_is_the_sites_own():
    decision = TABLE["what the policy asks for"].decide()
    plan = decision.plan
    assert plan.statement == resolve(NOISY, Sites(tuple(ROSTER), SCHEMA)).statement
    assert plan.statement.study == NOISY.hash
    assert plan.statement.clients == 12


def test_a_cohort_that_shrinks_is_seen_by_the_roster_alone():
    # Whatever a server says: with seven on the roster the site itself counts seven.
    assert Row(roster=12).decide().allowed
    assert not Row(roster=7).decide().allowed


def test_a_server_that_knows_the_sample_is_charged_without_sampling():
    sampled = replace(SHARES, layers=(mn.Clip(1.0), mn.LocalNoise(8.0)), cohort=mn.Cohort(size=8, minimum=6))
    row = Row(sampled, policy=BY_CLIENT)
    plan = row.decide().plan
    strict, trusting = (
        charged(policy_with({"privacy": {"against": against}, **BY_CLIENT}), plan) for against in (("server",), ("public",))
    )
    assert strict == without_sampling(trusting) != trusting == plan.privacy.events["public"]
    assert plan.privacy.event == strict == plan.privacy.events["server"]
    assert epsilon(strict, 1e-5, "zero_out").epsilon > 0
    assert charged(POLICY, Row().decide().plan) == Row().decide().plan.privacy.event
    assert charged(POLICY, Row(OPEN).decide().plan) is None


def test_a_site_is_charged_against_whom_its_datas_budget_names():
    plan, policy = Row(CENTRAL, policy=BY_CLIENT).decide().plan, policy_with({"privacy": {"against": []}, **BY_CLIENT})
    rule = policy.data["heart"]

    def against(*names):
        budget = replace(rule.budget, against=names or None)
        return replace(policy, data={"heart": replace(rule, budget=budget)})

    assert charged(against(), plan, "heart") == plan.privacy.event
    assert charged(against("public"), plan, "heart") == plan.privacy.events["public"]
    assert charged(against("server"), plan) == plan.privacy.event  # whatever data
    with pytest.raises(mn.Refused, match="Nothing protects from the server"):
        charged(against("server"), plan, "heart")


def test_conditions_alone():
    facts = Facts(NOON, True, load=0.9, mains_power=True)
    assert [refusal.rule for refusal in conditions(POLICY, facts)] == ["work.hours", "work.load"]
    assert conditions(POLICY, replace(facts, now=datetime(2030, 1, 1, 23, 0), load=0.2)) == ()


def test_power_is_read_from_the_system(tmp_path):
    assert on_mains(tmp_path / "none") is None
    assert on_mains(tmp_path) is True  # no battery
    battery = tmp_path / "BAT0"
    battery.mkdir()
    (battery / "type").write_text("Battery\n")
    assert on_mains(tmp_path) is False
    mains = tmp_path / "AC"
    mains.mkdir()
    (mains / "type").write_text("Mains\n")
    (mains / "online").write_text("0\n")
    assert on_mains(tmp_path) is False
    (mains / "online").write_text("1\n")
    assert on_mains(tmp_path) is True
    load = load_now()
    assert load is None or load >= 0


# Reading.


def test_the_example_is_a_policy_that_allows_nobody():
    found = Policy.read(Policy.example())
    assert found.researchers == found.data == {}
    assert found.code.rule == "reviewed"
    assert found.privacy.required
    assert decide(found, Row().bundle(), ROSTER, Facts(NOON, True)).refusals[0].rule == "researchers"


def test_the_examples_comments_are_right():
    uncommented = re.sub(r'(?m)^# ("Ada|\[data|budget)', r"\1", Policy.example())
    found = Policy.read(uncommented.replace("[data]\n", ""))
    assert list(found.researchers) == ["Ada Example"]
    assert found.data["heart_disease"].budget == mn.Budget(10.0, 1e-5, "example", "add_or_remove")
    # Every key of a section stands in it.
    for name, section in tomllib.loads(TEXT).items():
        assert set(section) <= set(tomllib.loads(uncommented)[name]) or name in ("researchers", "data")


WRONG = {
    "not TOML": ("a = ", "", "not TOML"),
    "nothing": (None, "", "lacks the key 'researchers'"),
    "an unknown section": ("[code]", "[codes]\nx = 1\n[code]", "unknown key 'codes'; did you mean 'code'"),
    "an unknown key": ("survivors = 5", "survivors = 5\nsurvivers = 4", "policy.cohort has an unknown key 'survivers'"),
    "a key of another section": ("survivors = 5", "survivors = 5\nrounds = 4", "policy.cohort has an unknown key 'rounds'"),
    "a missing section": ("[limits]", "[work.x]", "policy.work has an unknown key|lacks"),
    "a missing key": ("survivors = 5", "", "policy.cohort lacks the key 'survivors'"),
    "a missing key of privacy": ('unit = "example"', "", "lacks privacy.unit"),
    "an empty list of observers": ('against = ["server", "clients", "public"]', "against = []", "lacks privacy.against"),
    "an epsilon that is not asked for": ("required = true", "required = false", "privacy.epsilon has no effect"),
    "text for a number": (
        "epsilon = 4.0",
        'epsilon = "4"',
        "policy.privacy.epsilon expects a finite number or nothing; found '4'",
    ),
    "no limit to epsilon": ("epsilon = 4.0", "epsilon = inf", "policy.privacy.epsilon expects a finite number"),
    "no number as epsilon": ("epsilon = 4.0", "epsilon = nan", "policy.privacy.epsilon expects a finite number"),
    "epsilon below zero": ("epsilon = 4.0", "epsilon = -1.0", "privacy.epsilon > 0"),
    "a delta of one": ("delta = 1e-5\nunit", "delta = 1.0\nunit", "privacy.delta < 1"),
    "true for a number": ("minimum = 8", "minimum = true", "policy.cohort.minimum expects a whole number; found True"),
    "a fraction of a site": ("minimum = 8", "minimum = 8.5", "a whole number; found 8.5"),
    "a number for true": ("post_quantum = true", "post_quantum = 1", "true or false; found 1"),
    "text for true": ("required = true", 'required = "true"', "true or false"),
    "another rule": ('rule = "none"', 'rule = "all"', "'none' or 'listed' or 'reviewed'; found 'all'"),
    "another summation": ('allowed = ["SecAgg"]', 'allowed = ["Any"]', "policy.summation.allowed.0 expects 'SecAgg' or 'Plain'"),
    "no summation": ('allowed = ["SecAgg"]', "allowed = []", "names no summation"),
    "text for a list": ('allowed = ["SecAgg"]', 'allowed = "SecAgg"', "a list of"),
    "another observer": ('"server", "clients"', '"everyone"', "against.0 expects"),
    "a share above one": ("corrupt = 0.1", "corrupt = 1.5", "summation.corrupt < 1"),
    "more survivors than sites": ("survivors = 5", "survivors = 9", "cohort.survivors <= cohort.minimum"),
    "no survivors": ("survivors = 5", "survivors = 0", "cohort.survivors >= 1"),
    "a key that is none": (ADA.public.hex(), "abc", "researchers.Ada expects 64 hexadecimal"),
    "a key with capitals": (ADA.public.hex(), "A" * 64, "64 hexadecimal digits in lower case"),
    "a key that is a number": (f'"{ADA.public.hex()}"', "3", "researchers.Ada expects text"),
    "one key for two": ("[code]", f'Eve = "{ADA.public.hex()}"\n[code]', "the same key"),
    "hashes without their rule": ('rule = "none"', f'rule = "none"\nhashes = ["{HASH}"]', "code.hashes has no effect"),
    "a hash that is none": ('rule = "none"', 'rule = "listed"\nhashes = ["x"]', "code.hashes expects 64"),
    "data without a budget": ("[data.heart]", "[data.lungs]\n[data.heart]", "data.lungs has no budget"),
    "data that are text": ("[data.heart]", 'data.lungs = "x"\n[data.heart]', "expects|unknown|not TOML"),
    "a budget without a unit": (', privacy_unit = "example"', "", "data.heart.budget lacks the key 'privacy_unit'"),
    "a period without a budget": (
        'budget = { epsilon = 10.0, delta = 1e-5, privacy_unit = "example", neighboring_relation = "add_or_remove" }',
        "period = { epsilon = 1.0, days = 30 }",
        "a period and no budget",
    ),
    "a budget of nothing": ("epsilon = 10.0", "epsilon = 0.0", "Budget expects a finite epsilon > 0"),
    "a budget with a spare key": ("epsilon = 10.0", "epsilon = 10.0, monthly = true", "unknown key 'monthly'"),
    "a budget that no study fits": ('unit = "example"\nagainst', 'unit = "client"\nagainst', "no study fits both"),
    "no memory": ("memory_mb = 10", "memory_mb = 0", "limits.memory_mb > 0"),
    "no rounds": ("rounds = 100", "rounds = 0", "limits.rounds >= 1"),
    "no hours": ('hours = ["20:00-06:00"]', "hours = []", "names no span"),
    "hours that are none": ("20:00-06:00", "20-6", "spans such as"),
    "an hour that is none": ("20:00-06:00", "20:00-25:00", "spans such as"),
    "an empty span": ("20:00-06:00", "20:00-20:00", "spans such as"),
    "no load": ("load = 0.5", "load = 0", "work.load > 0"),
    "a date for the hours": ('hours = ["20:00-06:00"]', "hours = [20:00:00]", "hours.0 expects text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_policy_that_is_not_right_is_refused_by_name(name):
    old, new, words = WRONG[name]
    assert old is None or old in TEXT or name == "not TOML"
    text = "" if old is None else old if name == "not TOML" else TEXT.replace(old, new, 1)
    with pytest.raises(InvalidInput, match=words):
        Policy.read(text)


def test_every_key_is_needed_but_those_that_say_so():
    lines = TEXT.strip().splitlines()
    free = {"load", "[data.heart]", "Ada"}
    for index, line in enumerate(lines):
        if line.split(" =")[0] in free:
            continue
        with pytest.raises(InvalidInput):
            Policy.read("\n".join(lines[:index] + lines[index + 1 :]))


def test_a_file_is_named_in_the_error(tmp_path):
    path = tmp_path / "policy.toml"
    with pytest.raises(InvalidInput, match="policy.toml cannot be read as a policy.*manent site init"):
        Policy.load(path)
    path.write_text(TEXT.replace("survivors", "survivers"))
    with pytest.raises(InvalidInput, match="policy.toml: policy.cohort has an unknown key 'survivers'; did you mean 'survivors'"):
        Policy.load(path)
    path.write_text(TEXT)
    assert Policy.load(path) == POLICY
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match="cannot be read"):
        Policy.load(path)


def test_approvals_are_kept_in_a_file(tmp_path):
    path = tmp_path / "approvals"
    assert approved(path) == frozenset()
    approve(path, RIGHT, "Ada,\n2030-01-01  \x1b[2K")
    approve(path, HASH, "")
    assert approved(path) == {RIGHT, HASH}
    assert len(path.read_text().splitlines()) == 2
    assert path.read_text().isascii()
    with pytest.raises(InvalidInput, match="64 hexadecimal"):
        approve(path, "x", "")
    path.write_text(f"# what we read\n\n{RIGHT}\n")
    assert approved(path) == {RIGHT}
    path.write_text(f"{RIGHT}\nyes\n")
    with pytest.raises(InvalidInput, match="line 2"):
        approved(path)
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match="cannot be read as approvals"):
        approved(path)


def test_a_refusal_names_the_packages_and_not_the_versions_of_the_site():
    (refusal,) = pinned("flax==0.10.0", "torch==2.12.0").decide().refusals
    assert "flax is not installed, torch has another version than 2.12.0" in str(refusal)
    assert "2.13" not in str(refusal)


def test_what_is_installed_is_looked_up_by_the_name_that_packages_have():
    assert installed_version("NumPy") == np.__version__
    assert installed_version("no-such-package-anywhere") is None
