"""The simulation: equal bits, drop-outs, resuming, failures."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import manent as mn
from manent.core.layers import Stage
from manent.core.sums import TreeSum
from manent.engines.folder import RunFolder
from manent.engines.memory import ClientMemory
from tests.algorithms.federations import make, model_for

LOCAL = mn.LocalSGD(lr=0.05, epochs=1, batch_size=2)


@pytest.fixture(scope="module")
def data():
    return make("softmax", [6, 9, 4, 11, 5, 7, 8, 3, 12, 6])


def study(rounds=5, **options):
    return mn.Study(mn.SCAFFOLD(model_for("softmax"), LOCAL), rounds, **options)


def same(first, second):
    """Equal state, history and probe, wall time apart."""
    for name in first.state:
        assert first.state[name].tobytes() == second.state[name].tobytes(), name
    for log in ("history", "probe"):
        rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in getattr(run, log)] for run in (first, second)]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_the_result_does_not_depend_on_the_workers(data, workers):
    conditions = mn.Conditions(drop_before_training=0.1, drop_before_upload=0.1, drop_after_upload=0.1, stragglers=0.3)
    options = {"seed": 3, "conditions": conditions, "evaluate_every": 2}
    cohort = mn.Cohort(sampling_probability=0.7)
    same(
        mn.simulate(study(cohort=cohort), data, workers=workers, **options),
        mn.simulate(study(cohort=cohort), data, workers=3, **options),
    )


def test_another_seed_gives_another_run(data):
    runs = [mn.simulate(study(cohort=mn.Cohort(size=5)), data, seed=seed, workers=0) for seed in (1, 2)]
    assert not np.array_equal(runs[0].state["model"], runs[1].state["model"])


def test_history_is_what_the_server_knows_and_counts_what_crossed(data):
    run = mn.simulate(study(2, cohort=mn.Cohort(size=4)), data, workers=0)
    size = run.statement.sums[0].size
    for row in run.history:
        assert {"round", "sum", "cohort", "answers", "bytes_up", "bytes_down", "update_norm"} == set(row)
        assert row["answers"] == row["cohort"] == 4
        assert row["bytes_up"] == 4 * 4 * size
        assert row["bytes_down"] == 4 * 4 * 2 * model_for("softmax").layout.size
    assert {"train_loss", "clients", "client"} <= set(run.probe[-1])


def test_a_cohort_below_the_minimum_is_abandoned(data):
    conditions = mn.Conditions(drop_before_upload=0.5)
    run = mn.simulate(study(8, cohort=mn.Cohort(minimum=6)), data, workers=0, conditions=conditions)
    abandoned = [row for row in run.history if "abandoned" in row]
    assert 0 < len(abandoned) < len(run.history)
    assert all(row["answers"] < 6 for row in abandoned)
    assert all(row["answers"] >= 6 for row in run.history if "abandoned" not in row)


def test_an_empty_poisson_cohort_changes_nothing(data):
    run = mn.simulate(study(3, cohort=mn.Cohort(sampling_probability=1e-9)), data, workers=2)
    assert [row["answers"] for row in run.history] == [0, 0, 0]
    assert not run.state["control"].any()


def test_stragglers_do_less(data):
    slow = mn.simulate(study(1), data, workers=0, conditions=mn.Conditions(stragglers=1.0))
    full = mn.simulate(study(1), data, workers=0)
    assert slow.history[0]["answers"] == full.history[0]["answers"] == len(data)
    assert slow.history[0]["update_norm"] < full.history[0]["update_norm"] * 1.01
    dropped = mn.simulate(study(1), data, workers=0, conditions=mn.Conditions(stragglers=1.0, drop_stragglers=True))
    assert dropped.history[0]["answers"] == 0


class Stop(Exception):
    """Raised by a watcher to stop a run from outside."""


@dataclass(frozen=True)
class StopAfter:
    rounds: int

    def advance(self, round, clients, metrics):
        if round == self.rounds:
            raise Stop


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_resumes_to_the_same_end(data, tmp_path, workers):
    conditions = mn.Conditions(drop_before_upload=0.2)
    options = {"seed": 1, "workers": workers, "conditions": conditions, "evaluate_every": 2}
    whole = mn.simulate(study(9), data, folder=tmp_path / "whole", **options)
    for rounds in (3, 4, 8):
        resume = (tmp_path / "cut").exists()
        with pytest.raises(Stop):
            mn.simulate(study(9), data, folder=tmp_path / "cut", resume=resume, watcher=StopAfter(rounds), **options)
    cut = mn.simulate(study(9), data, folder=tmp_path / "cut", resume=True, **options)
    same(whole, cut)
    final = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert final[0] == final[1]


def test_resuming_with_something_else_is_refused(data, tmp_path):
    mn.simulate(study(2), data, workers=0, folder=tmp_path / "run")
    with pytest.raises(mn.InvalidInput, match="already holds a run"):
        mn.simulate(study(2), data, workers=0, folder=tmp_path / "run")
    with pytest.raises(mn.InvalidInput, match="another study"):
        mn.simulate(study(3), data, workers=0, folder=tmp_path / "run", resume=True)
    with pytest.raises(mn.InvalidInput, match="another seed"):
        mn.simulate(study(2), data, workers=0, folder=tmp_path / "run", resume=True, seed=9)
    with pytest.raises(mn.InvalidInput, match="another data"):
        mn.simulate(study(2), make("softmax", [6] * 10), workers=0, folder=tmp_path / "run", resume=True)
    with pytest.raises(mn.InvalidInput, match="no run"):
        mn.simulate(study(2), data, workers=0, folder=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    whole = json.loads((tmp_path / "run" / "study.json").read_text())
    for name in ("hash", "noise_multiplier", "seed", "conditions", "evaluate_every", "data"):
        (tmp_path / "run" / "study.json").write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
        with pytest.raises(mn.InvalidInput, match=f"does not say its {name}"):
            mn.simulate(study(2), data, workers=0, folder=tmp_path / "run", resume=True)


KILLED = """
    import sys, time
    import manent as mn
    from tests.engines.test_simulate import study
    from tests.algorithms.federations import make

    class Slow:
        def advance(self, round, clients, metrics):
            print(round, flush=True)
            time.sleep(0.05)

    data = make("softmax", [6, 9, 4, 11, 5, 7, 8, 3, 12, 6])
    mn.simulate(study(12), data, workers=2, folder=sys.argv[1], resume=sys.argv[2] == "resume", watcher=Slow())
"""


def test_kill_9_and_resume_end_like_the_undisturbed_run(data, tmp_path):
    whole = mn.simulate(study(12), data, workers=0)
    for attempt, delay in enumerate((0.0, 0.03, 0.11)):
        mode = "resume" if attempt else "new"
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "run"), mode], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = mn.simulate(study(12), data, workers=2, folder=tmp_path / "run", resume=True)
    same(whole, resumed)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "run"), "new"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    children = _children(process.pid)
    assert len(children) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(100):
        if not any(os.path.exists(f"/proc/{child}") and _alive(child) for child in children):
            return
        time.sleep(0.05)
    pytest.fail(f"workers {children} outlived their parent")


def _alive(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@dataclass(frozen=True)
class Broken:
    """FedAvg whose client-3 raises in round 2."""

    inner: object

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def answer(self, assignment, clients, memory, contexts):
        if clients[0].name == "client-3" and contexts[0].round == 2:
            raise RuntimeError("the disk is on fire")
        return self.inner.answer(assignment, clients, memory, contexts)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_client_names_itself_and_keeps_its_inputs(data, tmp_path, workers):
    broken = mn.Study(Broken(mn.SCAFFOLD(model_for("softmax"), LOCAL)), 4)
    with pytest.raises(
        mn.ClientFailed, match=r"'client-3' failed in round 2, stage 'train'.*RuntimeError: the disk is on fire"
    ) as e:
        mn.simulate(broken, data, workers=workers, folder=tmp_path / "run")
    assert (e.value.client, e.value.round, e.value.stage) == ("client-3", 2, "train")
    folder = RunFolder.open(tmp_path / "run")
    assert [row["round"] for row in folder.rows("history.jsonl")] == [1]
    assert folder.checkpoint().progress.round == 2
    with pytest.raises(RuntimeError, match="on fire"):
        mn.replay(e.value.folder, broken, data)
    mended = mn.replay(e.value.folder, study(4), data)
    assert np.isfinite(mended.vector).all()


def test_the_failed_round_is_run_again_on_resuming(data, tmp_path):
    options = {"workers": 0, "folder": tmp_path / "run"}
    with pytest.raises(mn.ClientFailed):
        mn.simulate(mn.Study(Broken(mn.SCAFFOLD(model_for("softmax"), LOCAL)), 4), data, **options)
    facts = json.loads((tmp_path / "run" / "study.json").read_text())
    facts["hash"] = study(4).hash
    (tmp_path / "run" / "study.json").write_text(json.dumps(facts))
    same(mn.simulate(study(4), data, resume=True, **options), mn.simulate(study(4), data, workers=0))


def test_a_client_that_diverges_is_an_error_that_names_the_tensor():
    data = make("linear", [6, 9])
    algorithm = mn.FedAvg(model_for("linear"), mn.LocalSGD(lr=1e18, steps=10))
    with pytest.raises(mn.ClientFailed, match=r"NaN or infinity in 'update\..*diverged.*lower the learning rate"):
        mn.simulate(mn.Study(algorithm, 3), data, workers=2)


@dataclass(frozen=True)
class Twice:
    """A layer that multiplies, and divides the total."""

    factor: float

    def enter(self, form, gathering):
        return TwiceStage(form, self.factor)


@dataclass(frozen=True)
class TwiceStage(Stage):
    factor: float

    def client(self, vectors, sent, random):
        return vectors * self.factor

    def server(self, total, state, random):
        return total / self.factor, state


@dataclass(frozen=True)
class Plus:
    """A layer that adds a constant per client, and takes it off ten times."""

    amount: float

    def enter(self, form, gathering):
        return PlusStage(form, self.amount)


@dataclass(frozen=True)
class PlusStage(Stage):
    amount: float

    def client(self, vectors, sent, random):
        return vectors + self.amount

    def server(self, total, state, random):
        return total - 10 * self.amount, state


def test_layers_act_forward_on_clients_and_backward_on_the_server(data):
    algorithm = mn.FedAvg(model_for("softmax"), LOCAL, weighting="equal")
    bare = mn.simulate(mn.Study(algorithm, 2), data, workers=0)
    layered = mn.simulate(mn.Study(algorithm, 2, layers=[Twice(4.0), Plus(0.5)]), data, workers=2)
    np.testing.assert_allclose(layered.state["model"], bare.state["model"], atol=1e-5)


@pytest.mark.parametrize("seed", [True, 1.5, "a", None, np.nan, [1]], ids=repr)
def test_a_seed_is_a_whole_number(data, seed):
    with pytest.raises(mn.InvalidInput, match="simulate expects a whole number as seed; found"):
        mn.simulate(study(), data, seed=seed)


@pytest.mark.parametrize("conditions", [0.1, 0, {}, "late", mn.Conditions], ids=repr)
def test_conditions_of_another_kind_are_refused(data, conditions):
    with pytest.raises(mn.InvalidInput, match="simulate expects conditions or None as conditions; found"):
        mn.simulate(study(), data, conditions=conditions)


def test_metrics_are_a_tuple_of_names(data):
    with pytest.raises(mn.InvalidInput, match="simulate expects metrics as a tuple of names; found 'accuracy'"):
        mn.simulate(study(), data, metrics="accuracy")


class Named:
    """A population without data."""

    def __init__(self, data):
        self.names, self.public = data.names, data.public


def test_a_simulation_needs_the_data(data):
    with pytest.raises(mn.InvalidInput, match="simulate expects a federation as data; found .*Named"):
        mn.simulate(study(), Named(data))


def test_memory_is_committed_or_left(tmp_path):
    memory = ClientMemory(3, 4, tmp_path / "memory.bin")
    memory.stage(1, 0, np.arange(4, dtype=np.float32))
    assert not memory.read(1, int(memory.current[1])).any()
    memory.commit([1])
    np.testing.assert_array_equal(memory.read(1, int(memory.current[1])), np.arange(4))
    memory.stage(1, 1, np.full(4, 7, np.float32))
    again = ClientMemory(3, 4, tmp_path / "memory.bin", memory.current)
    np.testing.assert_array_equal(again.read(1, int(again.current[1])), np.arange(4))
    memory.close()
    again.close()


def test_a_dead_worker_is_an_error_not_a_hang(data):
    @dataclass(frozen=True)
    class Suicidal(Broken):
        def answer(self, assignment, clients, memory, contexts):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(mn.ManentError, match=r"Worker \d died"):
        mn.simulate(mn.Study(Suicidal(mn.FedAvg(model_for("softmax"), LOCAL)), 1), data, workers=2)


def test_lambdas_and_local_classes_work_as_algorithms(data):
    @dataclass(frozen=True)
    class Local(Broken):
        pass

    algorithm = Local(mn.FedAvg(model_for("softmax"), LOCAL))
    assert len(mn.simulate(mn.Study(algorithm, 1), data, workers=2).history) == 1


def test_no_pickle_anywhere_in_a_run(data, monkeypatch, tmp_path):
    import pickle

    def refuse(*args, **options):
        raise AssertionError("pickle was used")

    for name in ("dumps", "loads", "dump", "load"):
        monkeypatch.setattr(pickle, name, refuse)
    mn.simulate(study(2), data, workers=2, folder=tmp_path / "run")


def test_runs_leave_no_processes_or_files_open(data):
    def open_things():
        children = _children(os.getpid())
        return len(children), len(os.listdir("/proc/self/fd"))

    mn.simulate(study(1), data, workers=2)
    gc.collect()  # what other tests have left open
    before = open_things()
    for _ in range(3):
        mn.simulate(study(2), data, workers=2)
    assert all(after <= first for after, first in zip(open_things(), before, strict=True))


def test_the_tree_does_not_depend_on_how_units_are_cut():
    vectors = np.random.default_rng(0).normal(size=(11, 5)).astype(np.float32)
    sums = []
    for level in (0, 1, 2, 3, 4):
        whole = TreeSum(5, 11)
        for index in range(-(-11 >> level)):
            part = TreeSum(5, 11)
            for position in range(index << level, min((index + 1) << level, 11)):
                part.add(position, vectors[position])
            whole.merge(part.take(level, index))
        sums.append(whole.finish().tobytes())
    assert len(set(sums)) == 1


def test_run_offers_series_result_and_model(data):
    run = mn.simulate(study(3), data, workers=0)
    rounds, values = run.series("accuracy", "clients")
    assert list(rounds) == [1, 2, 3]
    assert len(values) == 3
    assert set(run.result) == {"model"}
    assert run.model.evaluate(data.clients[0].test)["accuracy"] == run.probe[-1]["client"]["client-0"]["accuracy"]
    with pytest.raises(mn.InvalidInput, match="no 'nonsense'"):
        run.series("nonsense")


def test_a_central_test_set_is_measured(data):
    with_test = replace(data, test=data.pooled("test"))
    run = mn.simulate(study(2), with_test, workers=0)
    assert run.probe[-1]["test"]["accuracy"] == pytest.approx(run.model.evaluate(with_test.test)["accuracy"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": -1}, "workers >= 0"),
        ({"workers": "2"}, "workers >= 0"),
        ({"workers": 1.5}, "workers >= 0"),
        ({"workers": True}, "workers >= 0"),
        ({"evaluate_every": 0}, "evaluate_every >= 1"),
        ({"evaluate_every": "all"}, "evaluate_every >= 1"),
        ({"evaluate_every": float("nan")}, "evaluate_every >= 1"),
    ],
)
def test_counts_that_are_none_are_refused(options, words):
    with pytest.raises(mn.InvalidInput, match=words):
        mn.simulate(mn.Study(mn.FedAvg(model_for("softmax"), LOCAL)), make("softmax", [4] * 3), **{"workers": 0, **options})


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), "half", None, True])
def test_conditions_are_probabilities(wrong):
    for name in ("drop_before_training", "drop_before_upload", "drop_after_upload", "stragglers"):
        with pytest.raises(mn.InvalidInput, match=f"Conditions expects 0 <= {name} <= 1"):
            mn.Conditions(**{name: wrong})
    with pytest.raises(mn.InvalidInput, match="add up to at most 1"):
        mn.Conditions(drop_before_training=0.6, drop_after_upload=0.6)


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_whose_run_goes_on_is_refused(data, tmp_path, resume):
    """Two runs in one folder would release sums twice, under one reservation."""
    told = []

    class Second:
        def advance(self, round, clients, metrics):
            if round == 2:
                with pytest.raises(mn.InvalidInput, match=rf"in use by a run \(process {os.getpid()} "):
                    mn.simulate(study(), data, workers=0, watcher=(), folder=tmp_path / "run", resume=resume)
                told.append(round)

    alone = mn.simulate(study(), data, workers=0, watcher=())
    both = mn.simulate(study(), data, workers=2, watcher=Second(), folder=tmp_path / "run")
    assert told == [2]
    same(alone, both)
    assert not (tmp_path / "run" / "lock").exists()
    same(alone, mn.simulate(study(), data, workers=0, watcher=(), folder=tmp_path / "run", resume=True))
