"""Private studies in the simulation: what is drawn, released, counted and kept."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import manent as mn
from manent.accounting import Ledger
from manent.core.canonical import to_plain
from manent.core.randomness import repeatable
from manent.crypto import InsecureTestRNG, SystemRandom
from manent.engines.folder import RunFolder
from manent.storage import MemoryStore
from tests.privacy.studies import CENTRAL, DATA, FEDAVG, LOCAL, MODEL, budget, study

ROOT = Path(__file__).parents[2]
LAYERS = {
    "central": list(CENTRAL),
    "adaptive": [mn.AdaptiveClip(initial=1.0), mn.CentralNoise(0.3)],
    "local": [mn.Clip(0.5), mn.LocalNoise(0.5)],
    "distributed": [mn.Clip(0.5), mn.Discretize(bits=20, rotation=True), mn.DistributedNoise("skellam", 1.0)],
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=list(LAYERS))
def test_a_private_study_runs_in_workers(layers):
    run = mn.simulate(study(layers), DATA, workers=2)
    assert len(run.history) == 3
    assert np.isfinite(run.state["model"]).all()
    assert "if deployed" in str(run.statement)


def test_noise_is_never_the_same_and_a_test_source_repeats_it():
    def models(**options):
        return [mn.simulate(study(rounds=1), DATA, workers=0, **options).state["model"] for _ in range(2)]

    assert not np.array_equal(*models())
    first, second = (mn.simulate(study(rounds=1), DATA, workers=0, random=InsecureTestRNG(5)).state["model"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_with_almost_no_noise_it_is_the_study_without_layers():
    """The noise on a mean has deviation 100 / 2^13 / 20: the tolerances are more than 19 of it."""
    bare = mn.simulate(study([]), DATA, workers=0)
    quiet = mn.simulate(study([mn.Clip(100.0), mn.CentralNoise(2.0**-13)]), DATA, workers=2)
    np.testing.assert_allclose(quiet.state["model"], bare.state["model"], atol=0.02)
    scaffold = mn.SCAFFOLD(MODEL, LOCAL)
    bare = mn.simulate(study([], algorithm=scaffold), DATA, workers=0)
    quiet = mn.simulate(study([mn.Clip(100.0), mn.CentralNoise(2.0**-13)], algorithm=scaffold), DATA, workers=2)
    np.testing.assert_allclose(quiet.state["model"], bare.state["model"], atol=0.05)


def test_the_divisor_is_what_was_expected_not_who_came():
    """Within 24 deviations of the noise."""
    cohort = mn.Cohort(sampling_probability=0.5)
    quiet = [mn.Clip(100.0), mn.CentralNoise(2.0**-13)]
    run = mn.simulate(study(quiet, 1, cohort=cohort), DATA, workers=0, seed=4)
    came = run.probe[-1]["answers"]
    assert came != 10
    bare = mn.simulate(study([], 1, cohort=cohort), DATA, workers=0, seed=4)
    start = MODEL.init(repeatable(4, "init"))
    np.testing.assert_allclose((run.state["model"] - start) * 10, (bare.state["model"] - start) * came, atol=0.3)


def test_history_does_not_tell_who_came():
    run = mn.simulate(study(cohort=mn.Cohort(sampling_probability=0.5)), DATA, workers=0)
    assert [row["answers"] for row in run.history] == [row["cohort"] for row in run.history] == [10, 10, 10]
    assert len({(row["bytes_up"], row["bytes_down"]) for row in run.history}) == 1
    assert {"cohort", "answers"} <= set(run.probe[-1])


def test_an_empty_poisson_cohort_releases_noise():
    run = mn.simulate(study(cohort=mn.Cohort(sampling_probability=1e-9)), DATA, workers=2)
    assert [row["answers"] for row in run.probe] == [0, 0, 0]
    assert all("abandoned" not in row for row in run.history)
    assert run.state["model"].any()


def test_too_large_a_poisson_cohort_is_cut_at_random():
    cohort = mn.Cohort(sampling_probability=0.9, maximum=5)
    drawn = [cohort.draw(20, repeatable(0, "test", i)) for i in range(400)]
    assert max(map(len, drawn)) == 5
    counts = np.bincount([i for one in drawn for i in one], minlength=20)
    assert counts.min() > 60
    run = mn.simulate(study(cohort=cohort), DATA, workers=0)
    assert [row["answers"] for row in run.probe] == [5, 5, 5]
    for bad in ({"maximum": 0, "sampling_probability": 0.5}, {"maximum": 5}, {"maximum": 5, "size": 3}):
        with pytest.raises(mn.InvalidInput, match="maximum"):
            mn.Cohort(**bad)
    assert to_plain(mn.Cohort())["maximum"] is None
    assert to_plain(cohort)["maximum"] == 5


def poisson_is_poisson():
    """Each client comes by itself, with the probability that is claimed: the count varies as it must, and pairs do not."""
    cohort = mn.Cohort(sampling_probability=0.3)
    drawn = np.zeros((4000, 20))
    for i in range(len(drawn)):
        drawn[i, list(cohort.draw(20, repeatable(0, "cohort", i, 0)))] = 1
    assert drawn.mean() == pytest.approx(0.3, abs=0.01)
    assert drawn.sum(1).var() == pytest.approx(20 * 0.3 * 0.7, rel=0.15)
    pairs = np.corrcoef(drawn.T)[~np.eye(20, dtype=bool)]
    assert abs(pairs.mean()) < 0.005


def test_a_claim_of_poisson_sampling_is_true():
    poisson_is_poisson()


def test_with_too_few_shares_of_noise_nothing_is_released():
    layers = [mn.Clip(0.5), mn.DistributedNoise(noise_multiplier=1.0, dropout=0.25)]
    declared = study(layers, 6)
    lossy = mn.simulate(declared, DATA, workers=0, conditions=mn.Conditions(drop_before_upload=0.3))
    for row, seen in zip(lossy.history, lossy.probe, strict=True):
        assert ("abandoned" in row) == (seen["answers"] < 15)
        assert row.get("abandoned", "").isascii()
        assert not any(c.isdigit() for c in row.get("abandoned", ""))
    assert 0 < sum("abandoned" in row for row in lossy.history) < 6


@pytest.mark.parametrize("layers", [[mn.Clip(0.5)], *LAYERS.values()], ids=["clip alone", *LAYERS])
def test_a_client_that_diverges_sends_zeros_and_is_told_itself(layers):
    wild = mn.FedAvg(MODEL, mn.LocalSGD(lr=1e38, steps=10), weighting="equal")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = mn.simulate(study(layers, 1, algorithm=wild), DATA, workers=0)
    assert sum("zeros are sent instead" in str(w.message) for w in told) > 0
    assert np.isfinite(run.state["model"]).all()
    json.dumps([run.history, run.probe], allow_nan=False)


def test_a_client_that_diverges_keeps_its_memory():
    wild = mn.SCAFFOLD(MODEL, mn.LocalSGD(lr=1e38, steps=10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = mn.simulate(study([mn.Clip(0.5)], 3, algorithm=wild), DATA, workers=0)
    assert np.isfinite(run.state["control"]).all()


@dataclass(frozen=True)
class Broken:
    """An algorithm that raises at some clients."""

    inner: mn.FedAvg | mn.SCAFFOLD
    which: tuple[str, ...] | None

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def answer(self, assignment, clients, memory, contexts):
        if self.which is None or any(client.name in self.which for client in clients):
            raise RuntimeError("the disk is on fire")
        return self.inner.answer(assignment, clients, memory, contexts)


@pytest.mark.parametrize("layers", LAYERS.values(), ids=list(LAYERS))
def test_a_client_whose_code_raises_sends_zeros_and_is_told_itself(layers, tmp_path):
    broken = Broken(FEDAVG, ("client-3", "client-11"))
    with pytest.warns(UserWarning, match=r"client-(3|11): RuntimeError: the disk is on fire; zeros are sent instead.*failures"):
        run = mn.simulate(study(layers, 2, algorithm=broken), DATA, workers=0, folder=tmp_path / "run")
    clean = mn.simulate(study(layers, 2), DATA, workers=0)
    for row, other in zip(run.history, clean.history, strict=True):
        assert {**row, "update_norm": 0} == {**other, "update_norm": 0}
    assert "on fire" not in json.dumps([run.history, run.statement.to_plain()])
    kept = sorted(path.name for path in (tmp_path / "run" / "failures").iterdir())
    assert kept == [f"round-0000{r}-train-client-{c}" for r in (1, 2) for c in (11, 3)]
    with pytest.raises(RuntimeError, match="on fire"):
        mn.replay(tmp_path / "run" / "failures" / kept[0], study(layers, 2, algorithm=broken), DATA)


def test_what_a_failing_client_sends_is_zeros():
    quiet = [mn.Clip(100.0), mn.CentralNoise(2.0**-13)]
    broken = Broken(FEDAVG, ("client-3",))
    with pytest.warns(UserWarning, match="client-3"):
        run = mn.simulate(study(quiet, 1, algorithm=broken), DATA, workers=0)
    rest = mn.simulate(study([], 1), DATA.subset([name for name in DATA.names if name != "client-3"]), workers=0)
    start = MODEL.init(repeatable(0, "init"))
    np.testing.assert_allclose((run.state["model"] - start) * 20, (rest.state["model"] - start) * 19, atol=0.3)


def test_a_failing_client_keeps_its_memory():
    which = ("client-3",)
    with pytest.warns(UserWarning, match="client-3"):
        run = mn.simulate(study(algorithm=Broken(mn.SCAFFOLD(MODEL, LOCAL), which)), DATA, workers=0)
    assert np.isfinite(run.state["control"]).all()


@pytest.mark.filterwarnings("ignore:.*zeros are sent instead")
@pytest.mark.parametrize("workers", [0, 2])
def test_where_every_client_of_a_sum_raises_the_study_is_wrong_and_stops(workers, tmp_path):
    broken = study(algorithm=Broken(FEDAVG, None))
    with pytest.raises(mn.ClientFailed, match=r"'client-0' failed in round 1.*RuntimeError: the disk is on fire") as e:
        mn.simulate(broken, DATA, workers=workers, folder=tmp_path / "run")
    assert Path(e.value.folder).is_dir()
    assert len(list((tmp_path / "run" / "failures").iterdir())) <= 22


def test_without_noise_a_client_that_raises_is_an_error_as_ever():
    with pytest.raises(mn.ClientFailed, match="on fire"):
        mn.simulate(study([mn.Clip(0.5)], algorithm=Broken(FEDAVG, ("client-3",))), DATA, workers=0)


class Stop(Exception):
    """Raised by a watcher to stop a run from outside."""


@dataclass(frozen=True)
class StopAfter:
    rounds: int

    def advance(self, round, clients, metrics):
        if round == self.rounds:
            raise Stop


def test_an_interrupted_run_goes_on_with_its_clip_norm(tmp_path):
    declared = study([mn.AdaptiveClip(initial=10.0), mn.CentralNoise(0.2)], 9)
    with pytest.raises(Stop):
        mn.simulate(declared, DATA, workers=0, folder=tmp_path / "run", watcher=StopAfter(6))
    from manent.engines.folder import RunFolder

    saved = RunFolder.open(tmp_path / "run").checkpoint()
    norm = float(saved.arrays["layers.train/layer.0.norm"][0])
    assert norm < 7  # expected 6.07; the logarithm is 6.4 deviations away: false once in 1e10
    assert saved.released == 6  # a watcher is told of a round once it is kept
    whole = mn.simulate(declared, DATA, workers=0, folder=tmp_path / "run", resume=True)
    assert len(whole.history) == 9
    assert float(RunFolder.open(tmp_path / "run").checkpoint().arrays["layers.train/layer.0.norm"][0]) < norm


def test_an_algorithm_that_forms_more_sums_than_it_declares_is_stopped():
    @dataclass(frozen=True)
    class Greedy:
        inner: mn.FedAvg

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def sums(self, public):
            return (replace(self.inner.sums(public)[0], every=3),)

    with pytest.raises(mn.BudgetSpent, match="declares"):
        mn.simulate(study(algorithm=Greedy(study().algorithm)), DATA, workers=0)


# The ledger


def opened(epsilon=10.0, **changes):
    ledger = Ledger(MemoryStore())
    ledger.open("softmax", budget(epsilon, **changes))
    return ledger


def test_runs_on_the_same_data_share_one_budget():
    ledger = opened()
    mn.simulate(study(), DATA, workers=0, ledger=ledger)
    after = ledger.account("softmax")
    assert after.spent > 0
    assert after.reserved == 0

    def spend():
        while True:
            mn.simulate(study(), DATA, workers=0, ledger=ledger)

    with pytest.raises(mn.BudgetSpent):
        spend()
    assert after.spent < ledger.account("softmax").spent <= 10.0
    ledger.verify()


def test_a_study_that_does_not_fit_never_touches_the_data():
    @dataclass(frozen=True)
    class Watched:
        inner: mn.FedAvg

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def sums(self, public):
            return self.inner.sums(public)

        def answer(self, *arguments):
            raise AssertionError("asked for an answer")

    with pytest.raises(mn.BudgetSpent):
        mn.simulate(study(algorithm=Watched(study().algorithm)), DATA, workers=0, ledger=opened(0.01))


def test_a_study_that_does_not_fit_leaves_no_folder_and_may_come_again(tmp_path):
    ledger, folder = opened(0.01), tmp_path / "runs" / "one"
    with pytest.raises(mn.BudgetSpent):
        mn.simulate(study(), DATA, workers=0, ledger=ledger, folder=folder)
    assert not folder.exists()
    ledger.open("softmax-2", budget(10.0))
    again = replace(DATA, name="softmax-2")
    assert mn.simulate(study(), again, workers=0, ledger=ledger, folder=folder).folder == folder
    with pytest.raises(mn.InvalidInput, match="already holds a run"):
        mn.simulate(study(), again, workers=0, ledger=ledger, folder=folder)
    assert ledger.account("softmax-2").runs == 1  # nothing was set aside for the run that found its folder taken


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    ledger = opened()
    with pytest.raises(mn.InvalidInput, match="Name a folder that can be written"):
        mn.simulate(study(), DATA, workers=0, ledger=ledger, folder=tmp_path / "file" / "run")
    assert ledger.account("softmax").runs == 0

    def full(self, name, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFolder, "write", full)
    with pytest.raises(OSError, match="No space left"):
        mn.simulate(study(), DATA, workers=0, ledger=ledger, folder=tmp_path / "run")
    assert ledger.account("softmax").runs == 0


def test_a_reservation_left_in_the_folder_is_taken_for_the_same_study_only(tmp_path):
    """As after a kill between the reservation and the first round."""
    from manent.engines.spending import Spending

    ledger, plan = opened(50.0), mn.privacy.resolve(study(), DATA)
    Spending.begin(plan, None, ledger, "softmax", RunFolder.create(tmp_path / "run"), SystemRandom())
    assert ledger.account("softmax").runs == 1
    mn.simulate(study(rounds=2), DATA, workers=0, ledger=ledger, folder=tmp_path / "run")
    assert ledger.account("softmax").runs == 2
    Spending.begin(plan, None, ledger, "softmax", RunFolder.create(tmp_path / "again"), SystemRandom())
    mn.simulate(study(), DATA, workers=0, ledger=ledger, folder=tmp_path / "again")
    assert ledger.account("softmax").runs == 3


def test_a_finished_run_may_be_resumed_and_costs_nothing_more(tmp_path):
    ledger = opened()
    first = mn.simulate(study(), DATA, workers=0, ledger=ledger, folder=tmp_path / "run")
    spent = ledger.account("softmax")
    again = mn.simulate(study(), DATA, workers=0, ledger=ledger, folder=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(first.state["model"], again.state["model"])
    assert ledger.account("softmax") == spent


def test_what_was_not_released_goes_back_and_abandoned_rounds_cost_nothing():
    ledger = opened(neighboring_relation="zero_out")
    layers = [mn.Clip(0.5), mn.DistributedNoise(noise_multiplier=2.0)]
    mn.simulate(study(layers), DATA, workers=0, ledger=ledger, conditions=mn.Conditions(drop_before_upload=1.0))
    assert ledger.account("softmax").spent == ledger.account("softmax").reserved == 0
    mn.simulate(study(layers, 6), DATA, workers=0, ledger=ledger, seed=1, conditions=mn.Conditions(drop_before_upload=0.04))
    once, all_six = (Ledger(MemoryStore()) for _ in range(2))
    for other, rounds in ((once, 1), (all_six, 6)):
        other.open("softmax", budget(neighboring_relation="zero_out"))
        mn.simulate(study(layers, rounds), DATA, workers=0, ledger=other)
    spent = [one.account("softmax").spent for one in (once, ledger, all_six)]
    assert spent[0] <= spent[1] < spent[2]


def test_a_study_without_privacy_or_under_a_test_source_is_not_accounted():
    with pytest.raises(mn.Refused, match="this study has none"):
        mn.simulate(study([]), DATA, workers=0, ledger=opened())
    with pytest.raises(mn.Refused, match="InsecureTestRNG"):
        mn.simulate(study(), DATA, workers=0, ledger=opened(), random=InsecureTestRNG(0))
    with pytest.raises(mn.InvalidInput, match="no budget"):
        mn.simulate(study(), DATA, workers=0, ledger=Ledger(MemoryStore()))


SCRIPT = """
    import os, sys
    sys.path.insert(0, {root!r})
    import manent as mn
    from tests.privacy.studies import DATA, study
    class Kill:
        def advance(self, round, clients, metrics):
            if round == 2: os.kill(os.getpid(), 9)
    mn.simulate(study(), DATA, workers=0, folder={folder!r}, ledger={ledger!r}, watcher=Kill())
"""


def test_a_crash_leaves_it_spent_and_the_run_goes_on_under_its_own_reservation(tmp_path):
    from manent.storage import open_store

    path, folder = str(tmp_path / "ledger.db"), str(tmp_path / "run")
    ledger = Ledger(open_store(path))
    ledger.open("softmax", budget())
    script = textwrap.dedent(SCRIPT.format(root=str(ROOT), folder=folder, ledger=path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, check=False, timeout=120)
    assert killed.returncode == -9
    event, unit = mn.privacy.resolve(study(), DATA).privacy.event, {"privacy_unit": "client"}
    whole = ledger.cost("softmax", event, **unit, neighboring_relation="add_or_remove").before
    account = ledger.account("softmax")
    assert account.spent + account.reserved == pytest.approx(whole)
    assert account.left < 10.0
    mn.simulate(study(), DATA, workers=0, folder=folder, ledger=path, resume=True)
    assert ledger.account("softmax").runs == 1
    assert ledger.account("softmax").reserved == 0
    assert ledger.account("softmax").spent == pytest.approx(whole)
    ledger.verify()
