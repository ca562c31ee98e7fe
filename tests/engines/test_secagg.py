"""Studies behind secure aggregation, simulated by the real protocol and by its model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import manent as mn
from manent.accounting import Ledger
from manent.storage import MemoryStore

LOCAL = mn.LocalSGD(lr=0.1, steps=3, batch_size=4)
MODEL = mn.LogisticModel(features=3)
AGG = mn.SecAgg(minimum_cohort=3)
DROPS = mn.Conditions(drop_before_training=0.08, drop_before_upload=0.08, drop_after_upload=0.08)


def data(clients: int = 12) -> mn.Federation:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(4, 3)).astype(np.float32) for _ in range(clients)]
    parts = [mn.Examples(x, (x.sum(1) > 0).astype(np.int64)) for x in rows]
    return mn.Federation(tuple(mn.Client(f"c{i}", part) for i, part in enumerate(parts)), mn.Schema(shape=(3,), classes=2))


def study(**changes: object) -> mn.Study:
    return replace(mn.Study(mn.FedAvg(MODEL, LOCAL), rounds=3, summation=AGG), **changes)


def model(run: mn.Run) -> bytes:
    return np.asarray(run.state["model"]).tobytes()


@pytest.mark.parametrize("conditions", [mn.Conditions(), DROPS], ids=["all answer", "some vanish"])
def test_the_protocol_and_its_model_form_the_same_sums(conditions: mn.Conditions) -> None:
    modelled = replace(AGG, modelled=True)
    runs = [mn.simulate(study(), data(), seed=4, conditions=conditions, workers=count) for count in (0, 2)]
    runs += [mn.simulate(study(summation=modelled), data(), seed=4, conditions=conditions, workers=count) for count in (0, 1, 2)]
    assert len({model(run) for run in runs}) == 1
    assert len({tuple(row["answers"] for row in run.history) for run in runs}) == 1


def test_the_sums_are_those_of_the_vectors_to_the_step_of_the_grid() -> None:
    hidden, clear = (mn.simulate(study(summation=s), data(), seed=4) for s in (AGG, None))
    np.testing.assert_allclose(hidden.state["model"], clear.state["model"], atol=1e-5)
    assert model(hidden) != model(clear)


def test_too_many_that_vanish_leave_no_sum_and_an_unchanged_model() -> None:
    gone = mn.Conditions(drop_before_upload=0.6)
    run = mn.simulate(study(rounds=2), data(), seed=1, conditions=gone)
    assert all("abandoned" in row for row in run.history)
    assert model(run) == model(mn.simulate(study(rounds=1), data(), seed=1, conditions=mn.Conditions(drop_before_training=1.0)))


def test_a_sum_that_aborts_after_uploads_is_abandoned() -> None:
    gone = mn.Conditions(drop_after_upload=0.7)
    for summation in (AGG, replace(AGG, modelled=True)):
        run = mn.simulate(study(rounds=2, summation=summation), data(), seed=1, conditions=gone)
        assert all("abandoned" in row for row in run.history), run.history


def private(**changes: object) -> mn.Study:
    layers = [mn.Clip(1.0), mn.DistributedNoise(dropout=0.2, colluders=0.1)]
    budget = mn.Budget(8.0, 1e-3, privacy_unit="client", neighboring_relation="zero_out")
    algorithm = mn.FedAvg(MODEL, LOCAL, weighting="equal")
    return replace(study(algorithm=algorithm), **{"layers": layers, "budget": budget, **changes})


def test_shares_of_noise_protect_from_the_server() -> None:
    statement = mn.check(private(), data())
    found = {observer.name: observer for observer in statement.observers}
    server = found["server"]
    # Another client takes its own share off: it is the dearest.
    assert server.epsilon < found["clients"].epsilon == pytest.approx(8.0, rel=1e-3)
    assert server.epsilon == found["server and colluders"].epsilon == found["colluders"].epsilon == found["public"].epsilon
    assert server.sees == "only the total of each sum"
    text = str(statement)
    for line in ("a server that lies", "of them rebuild one", "A sum has at least 10 vectors", "Discretize (inserted)"):
        assert line in text


def test_a_private_sum_that_aborts_does_not_tell_how_many_answered() -> None:
    for summation in (AGG, replace(AGG, modelled=True)):
        gone = mn.Conditions(drop_after_upload=0.5)
        run = mn.simulate(private(summation=summation), data(), seed=1, conditions=gone)
        reasons = {row["abandoned"] for row in run.history if "abandoned" in row}
        assert reasons
        assert not any(character.isdigit() for reason in reasons for character in reason), reasons


def test_an_abandoned_sum_is_charged() -> None:
    ledger = Ledger(MemoryStore())
    ledger.open("federation", private().budget)
    mn.simulate(private(), data(), seed=1, ledger=ledger, conditions=mn.Conditions(drop_after_upload=0.9))
    assert ledger.account("federation").spent == pytest.approx(8.0, rel=1e-2)


REFUSED = {
    "a small cohort": (study(summation=mn.SecAgg()), 8, r"below SecAgg's minimum of 10.*minimum_cohort"),
    "too many that vanish": (study(summation=mn.SecAgg(dropped=0.6, corrupt=0.3)), 12, "corrupt"),
    "a Poisson cohort with noise": (
        private(layers=[mn.Clip(1.0), mn.CentralNoise()], cohort=mn.Cohort(sampling_probability=0.5)),
        12,
        "Poisson",
    ),
    "numbers too large for a ring": (
        study(layers=[mn.FixedPoint(step=2.0**-30, limit=2.0**22)], cohort=mn.Cohort(size=2**12)),
        2**12,
        "overflow",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_has_no_honest_sum_is_refused(name: str) -> None:
    declared, clients, reason = REFUSED[name]
    with pytest.raises(mn.Refused, match=f"(?s){reason}"):
        mn.check(declared, data(clients))


def test_a_number_beyond_the_limit_is_refused_by_its_client() -> None:
    with pytest.raises(mn.ClientFailed, match="FixedPoint"):
        mn.simulate(study(layers=[mn.FixedPoint(limit=2.0**-10)]), data(), seed=1)


def test_a_modelled_sum_says_so() -> None:
    lines = mn.check(study(summation=replace(AGG, modelled=True)), data()).summing
    assert any("no key, mask or share was made" in line for line in lines)
    assert not any("no key" in line for line in mn.check(study(), data()).summing)
