"""Private training is accounted for single examples."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

import manent as mn
from manent.accounting import Ledger, epsilon, training
from manent.accounting.events import counted
from manent.core.canonical import canonical
from manent.core.protocols import Assignment, ClientContext
from manent.core.training.dpsgd import ASSUMPTION, DPSGD
from manent.engines.clients import keep_inputs
from manent.network.wire.bundle import Bundle
from manent.network.wire.sums import StudySum, make_call
from manent.privacy import examples, resolve
from manent.rounds.declared import Sites, rebuild
from manent.storage import MemoryStore
from tests.privacy.studies import CENTRAL, DATA, MODEL, budget

EXAMPLE = budget(2.0, privacy_unit="example", delta=1e-4)


def study(z=None, rounds=5, algorithm=mn.FedAvg, **changes):
    local = mn.LocalSGD(lr=0.05, steps=4, batch_size=3, privacy=DPSGD(1.0, z, sampling_probability=0.05))
    return mn.Study(algorithm(MODEL, local), rounds, **changes)


def test_every_step_counts_and_every_observer_is_held_off():
    statement = mn.check(study(1.0), DATA)
    expected = epsilon(training(1.0, 20, 0.05), statement.observers[0].delta, "add_or_remove").epsilon
    assert [observer.epsilon for observer in statement.observers] == pytest.approx([expected] * 3)
    assert statement.protection.privacy_unit == "example"
    # Who is in a cohort is no secret: it amplifies nothing.
    sampled = mn.check(study(1.0, cohort=mn.Cohort(sampling_probability=0.1)), DATA)
    assert sampled.observers[2].epsilon == statement.observers[2].epsilon


def test_the_noise_is_found_from_the_budget_and_used():
    declared = study(budget=EXAMPLE)
    plan = resolve(declared, DATA)
    z = plan.study.algorithm.local.privacy.noise_multiplier
    assert z == plan.privacy.noise_multiplier
    assert plan.statement.observers[0].epsilon == pytest.approx(2.0, rel=1e-3)
    assert plan.statement.study == declared.hash
    run = mn.simulate(declared, DATA, workers=0)
    assert np.isfinite(run.state["model"]).all()
    assert len(run.history) == 5


def test_one_study_has_one_hash_though_its_noise_is_derived(monkeypatch, tmp_path):
    """The declared study's: in the run's folder, the ledger, the summation, the statement and over the network."""
    declared, told = study(budget=EXAMPLE), {}
    reserve, init = Ledger.reserve, mn.Plain.init

    def reserving(self, *args, **kwargs):
        told["ledger"] = kwargs["study"]
        return reserve(self, *args, **kwargs)

    def forming(self, occasion):
        told["summation"] = occasion.study.hex()
        return init(self, occasion)

    monkeypatch.setattr(Ledger, "reserve", reserving)
    monkeypatch.setattr(mn.Plain, "init", forming)
    ledger = Ledger(MemoryStore())
    ledger.open("softmax", budget(20.0, privacy_unit="example"))
    run = mn.simulate(declared, DATA, workers=0, folder=tmp_path / "run", ledger=ledger)
    kept = {name: json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("study", "statement")}
    told["study.json"], told["statement.json"] = kept["study"]["hash"], kept["statement"]["study"]
    told["the study in study.json"] = hashlib.sha256(canonical(kept["study"]["study"])).hexdigest()
    told["run"], told["its statement"] = run.study.hash, run.statement.study

    bundle = Bundle.of(declared, DATA.schema, "softmax")
    plan = resolve(rebuild(bundle.study), Sites(tuple(DATA.names), DATA.schema))
    about = StudySum("train", 0, 1, bytes(32))
    call = make_call(plan, about, 0, 20, SimpleNamespace(number=1, root=bytes(32)), bytes(32))
    told["bundle"], told["plan of a site"], told["call"] = bundle.study_hash, plan.hash, call.study.hex()
    assert told == dict.fromkeys(told, declared.hash)
    # The multiplier that was derived stands beside it.
    assert plan.declared.algorithm.local.privacy.noise_multiplier is None
    assert plan.noise_multiplier == plan.study.algorithm.local.privacy.noise_multiplier
    assert run.statement.protection.noise_multiplier == plan.noise_multiplier == kept["study"]["noise_multiplier"]


def test_a_run_is_not_resumed_with_other_noise(tmp_path):
    """Another version may derive another multiplier from the same budget: its statement would not hold for the rounds before."""
    declared = study(budget=EXAMPLE)
    mn.simulate(declared, DATA, workers=0, folder=tmp_path / "run")
    mn.simulate(declared, DATA, workers=0, folder=tmp_path / "run", resume=True)
    path = tmp_path / "run" / "study.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "noise_multiplier": facts["noise_multiplier"] * 1.01}))
    with pytest.raises(mn.InvalidInput, match="begun with another noise_multiplier"):
        mn.simulate(declared, DATA, workers=0, folder=tmp_path / "run", resume=True)


def test_what_does_not_fit_is_refused():
    for declared, why in (
        (study(budget=budget()), "privacy_unit='example'"),
        (study(0.3, budget=EXAMPLE), "Leave noise_multiplier out of DPSGD"),
        (study(), "to derive it from"),
    ):
        with pytest.raises(mn.Refused, match=why):
            mn.check(declared, DATA)
    local = study().algorithm.local
    measured = mn.Study(mn.FedAvg(MODEL, local, evaluation=mn.Evaluation()), 5, budget=EXAMPLE)
    with pytest.raises(mn.Refused, match="released without noise"):
        mn.check(measured, DATA)


def test_delta_is_held_against_the_examples_that_are_declared():
    """20 clients of 400 examples: declared as such, or implied by batches of 8 at probability 0.02."""
    for declared in ({"examples": 400}, {"sampling_probability": 0.02}):
        for delta, fits in ((1 / 8000, False), (0.99 / 8000, True)):
            local = mn.LocalSGD(lr=0.05, steps=4, batch_size=8, privacy=DPSGD(1.0, **declared))
            private = mn.Study(mn.FedAvg(MODEL, local), 5, budget=budget(2.0, privacy_unit="example", delta=delta))
            if fits:
                assert mn.check(private, DATA).observers[0].delta == delta
                continue
            with pytest.raises(mn.InvalidInput, match="publish one of 8,000 units"):
                mn.check(private, DATA)
    local = mn.LocalSGD(lr=0.05, steps=4, batch_size=512, privacy=DPSGD(1.0, 1.0, sampling_probability=1e-4))
    assert mn.check(mn.Study(mn.FedAvg(MODEL, local)), DATA).observers[0].delta == pytest.approx(1 / (10 * 20 * 5_120_000))


def test_what_the_gradients_take_for_granted_is_stated():
    assert ASSUMPTION in str(mn.check(study(1.0), DATA))
    assert all(ASSUMPTION in observer.assumptions for observer in mn.check(study(1.0), DATA).observers)
    assert ASSUMPTION not in str(mn.check(study(1.0, layers=CENTRAL), DATA))


def test_noise_so_small_that_nothing_holds_is_said_in_words():
    with pytest.raises(mn.Refused, match="epsilon is without bound for each example"):
        mn.check(study(2.0**-15, budget=EXAMPLE), DATA)


def test_metrics_without_noise_leave_no_epsilon():
    local = study(1.0).algorithm.local
    statement = mn.check(mn.Study(mn.FedAvg(MODEL, local, evaluation=mn.Evaluation()), 5), DATA)
    assert all(observer.epsilon is None for observer in statement.observers)


def test_with_noise_on_vectors_it_is_clients_that_are_accounted():
    assert mn.check(study(1.0, layers=CENTRAL), DATA).protection.privacy_unit == "client"


def test_in_a_ledger_a_round_that_was_abandoned_is_spent_once_the_server_has_seen_a_vector():
    for dropped, steps in ((0.9, 20), (1.0, 0)):
        ledger = Ledger(MemoryStore())
        ledger.open("softmax", budget(20.0, privacy_unit="example"))
        conditions = mn.Conditions(drop_before_upload=dropped)
        run = mn.simulate(study(1.0, cohort=mn.Cohort(minimum=15)), DATA, workers=0, ledger=ledger, conditions=conditions)
        assert all("abandoned" in row for row in run.history)
        history = counted(ledger.history("softmax"))
        assert sum(history.values()) == steps


def test_a_failure_is_replayed_with_the_noise_that_the_budget_derives(tmp_path):
    """The declared study, which a run gives back, does not hold it."""
    declared = study(budget=EXAMPLE)
    client = DATA.clients[0]
    keep_inputs(
        tmp_path, Assignment("train", {"model": MODEL.init(np.random.default_rng(0))}), None, ClientContext(client.name, 1, 0), ""
    )
    found = mn.replay(tmp_path, declared, DATA)
    assert np.isfinite(found.vector).all()


def test_an_algorithm_of_ones_own_may_call_a_method_local():
    class Own:
        def local(self, task, data, memory):
            return None

    assert examples.declared(SimpleNamespace(algorithm=Own())) is None
