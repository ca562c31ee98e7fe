"""What layers have clients keep: staged with a vector, committed with the sum that holds it, and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import manent as mn
from manent.core.protocols import ClientContext, Contribution
from manent.engines.folder import RunFolder
from manent.engines.memory import ClientMemory
from manent.privacy import resolve
from tests.algorithms.federations import make, model_for
from tests.engines.test_simulate import LOCAL, Broken, Stop, StopAfter, same
from tests.privacy.feedback import SIZE, Feedback, Known, vector

ROOT = Path(__file__).parents[2]
CLIENTS, SEED = 10, 5
DATA = make("softmax", [6, 9, 4, 11, 5, 7, 8, 3, 12, 6])
LOSSY = mn.Conditions(drop_before_training=0.1, drop_before_upload=0.3, drop_after_upload=0.1)
LAYERS = {"top-k": (Feedback(2),), "rounded": (Feedback(SIZE, 1.0),), "both": (Feedback(4, 0.5), Feedback(2))}


FEEDBACK = (Feedback(2),)


def study(layers=FEEDBACK, rounds=6, counting=True, **options):
    return mn.Study(Known(counting), rounds, layers=layers, **options)


def rows(folder, declared):
    """[clients, m], what each client keeps after a run."""
    plan, saved = resolve(declared, DATA), RunFolder.open(folder).checkpoint()
    memory = ClientMemory(CLIENTS, plan.memory.size, folder / "memory.bin", saved.current)
    found = np.stack([memory.read(i, int(memory.current[i])) for i in range(CLIENTS)])
    memory.close()
    return plan, found


def included(run, conditions):
    """Of each sum that was released: name, round, and the clients in it."""
    for row in run.history:
        if "abandoned" not in row:
            index = ("one", "two").index(row["sum"])
            names = [client.name for client in DATA.clients]
            yield row["sum"], row["round"], [n for n in names if conditions.fate(SEED, row["round"], index, n).answers]


def check_nothing_is_lost(folder, run, declared, conditions):
    """All that was released and all that is kept are exactly the vectors of all released sums; and the counts are right."""
    plan, kept = rows(folder, declared)
    true, counts = {"one": np.zeros(SIZE), "two": np.zeros(SIZE)}, dict.fromkeys((c.name for c in DATA.clients), 0)
    for name, round, clients in included(run, conditions):
        for client in clients:
            true[name] += vector(name, ClientContext(client, round, SEED))
            counts[client] += name == "one"
    for name, part in plan.kept.items():
        residuals = kept[:, part].astype(np.float64).sum(0).reshape(-1, SIZE).sum(0)  # of all clients, and all stages
        np.testing.assert_array_equal(run.state[name] + residuals, true[name])
        assert residuals.any()
    if plan.own:
        np.testing.assert_array_equal(kept[:, 0], list(counts.values()))


@pytest.mark.parametrize("layers", LAYERS.values(), ids=list(LAYERS))
@pytest.mark.parametrize("counting", [True, False])
def test_what_is_sent_and_what_is_kept_add_up_to_the_vectors(tmp_path, layers, counting):
    declared = study(layers, counting=counting)
    run = mn.simulate(declared, DATA, seed=SEED, workers=0, folder=tmp_path / "run")
    check_nothing_is_lost(tmp_path / "run", run, declared, mn.Conditions())
    bare = mn.simulate(study((), counting=counting), DATA, seed=SEED, workers=0)
    assert not np.array_equal(run.state["one"], bare.state["one"])


@pytest.mark.parametrize("counting", [True, False])
def test_only_who_is_in_a_released_sum_keeps_something_new(tmp_path, counting):
    declared = study(rounds=16, counting=counting, cohort=mn.Cohort(minimum=7))
    run = mn.simulate(declared, DATA, seed=SEED, workers=0, conditions=LOSSY, folder=tmp_path / "run")
    abandoned = [row for row in run.history if "abandoned" in row]
    assert {row["sum"] for row in abandoned} == {"one", "two"}
    assert any(row["answers"] for row in abandoned)
    assert any(row["answers"] < CLIENTS for row in run.history if "abandoned" not in row)
    check_nothing_is_lost(tmp_path / "run", run, declared, LOSSY)


def test_it_is_kept_under_secure_aggregation_too_and_not_where_the_protocol_aborts(tmp_path):
    declared = study(rounds=30, summation=mn.SecAgg(minimum_cohort=6, dropped=0.3, modelled=True))
    lossy = mn.Conditions(drop_before_upload=0.1, drop_after_upload=0.2)
    run = mn.simulate(declared, DATA, seed=SEED, workers=0, conditions=lossy, folder=tmp_path / "run")
    assert any("of position" in row.get("abandoned", "") for row in run.history)
    check_nothing_is_lost(tmp_path / "run", run, declared, lossy)


@pytest.mark.parametrize("algorithm", [Known(), mn.SCAFFOLD(model_for("softmax"), LOCAL, evaluation=mn.Evaluation(every=2))])
def test_the_result_does_not_depend_on_the_workers(tmp_path, algorithm):
    declared = mn.Study(algorithm, 4, mn.Cohort(sampling_probability=0.7), layers=[Feedback(3, 2.0**-6)])
    options = {"seed": SEED, "conditions": LOSSY}
    first = mn.simulate(declared, DATA, workers=0, folder=tmp_path / "0", **options)
    kept = rows(tmp_path / "0", declared)[1]
    assert kept.any()
    for workers in (1, 2, 4):
        folder = tmp_path / str(workers)
        same(first, mn.simulate(declared, DATA, workers=workers, folder=folder, **options))
        np.testing.assert_array_equal(rows(folder, declared)[1], kept)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_resumes_to_the_same_end(tmp_path, workers):
    declared, options = study(rounds=9), {"seed": SEED, "workers": workers, "conditions": LOSSY}
    whole = mn.simulate(declared, DATA, folder=tmp_path / "whole", **options)
    for rounds in (3, 4, 8):
        resume = (tmp_path / "cut").exists()
        with pytest.raises(Stop):
            mn.simulate(declared, DATA, folder=tmp_path / "cut", resume=resume, watcher=StopAfter(rounds), **options)
    same(whole, mn.simulate(declared, DATA, folder=tmp_path / "cut", resume=True, **options))
    np.testing.assert_array_equal(rows(tmp_path / "cut", declared)[1], rows(tmp_path / "whole", declared)[1])
    check_nothing_is_lost(tmp_path / "cut", whole, declared, LOSSY)


KILLED = """
    import sys, time
    import manent as mn
    from tests.engines.test_layer_memory import DATA, LOSSY, SEED, study

    class Slow:
        def advance(self, round, clients, metrics):
            print(round, flush=True)
            time.sleep(0.02)

    resume = sys.argv[2] == "resume"
    mn.simulate(study(rounds=40), DATA, seed=SEED, workers=2, conditions=LOSSY, folder=sys.argv[1], resume=resume, watcher=Slow())
"""


def test_kill_9_and_resume_end_like_the_undisturbed_run(tmp_path):
    declared, folder = study(rounds=40), tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    for attempt, delay in enumerate((0.0, 0.03, 0.11)):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), "resume" if attempt else "new"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        assert process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = RunFolder.open(folder).checkpoint().progress
    assert 1 < reached.round < 40
    resumed = mn.simulate(declared, DATA, seed=SEED, workers=2, conditions=LOSSY, folder=folder, resume=True)
    same(mn.simulate(declared, DATA, seed=SEED, workers=0, conditions=LOSSY), resumed)
    check_nothing_is_lost(folder, resumed, declared, LOSSY)


def test_private_studies_run_with_it(tmp_path):
    layers = [Feedback(3), mn.Clip(2.0), mn.CentralNoise(1.0)]
    run = mn.simulate(study(layers), DATA, seed=SEED, workers=2, folder=tmp_path / "run")
    assert run.statement.layers == ("Feedback", "Clip", "Discretize (inserted)", "CentralNoise")
    assert rows(tmp_path / "run", study(layers))[1][:, 1:].any()
    assert "if deployed" in str(run.statement)


@pytest.mark.parametrize("algorithm", [mn.SCAFFOLD, mn.FedDyn])
@pytest.mark.parametrize("layers", [[], [Feedback(4)]], ids=["no layer", "feedback"])
def test_a_sum_that_changes_no_memory_leaves_it(algorithm, layers):
    """Evaluation between two rounds of training makes no difference to them."""
    runs = [
        mn.simulate(mn.Study(algorithm(model_for("softmax"), LOCAL, evaluation=evaluation), 5, layers=layers), DATA, workers=0)
        for evaluation in (None, mn.Evaluation())
    ]
    np.testing.assert_array_equal(runs[0].state["model"], runs[1].state["model"])


def test_the_algorithm_is_given_its_own_memory_alone_and_so_is_a_replay(tmp_path):
    broken, mended = (
        mn.Study(algorithm, 4, layers=[Feedback(4)])
        for algorithm in (Broken(mn.SCAFFOLD(model_for("softmax"), LOCAL)), mn.SCAFFOLD(model_for("softmax"), LOCAL))
    )
    with pytest.raises(mn.ClientFailed) as e:
        mn.simulate(broken, DATA, workers=0, folder=tmp_path / "run")
    assert mn.replay(e.value.folder, mended, DATA).memory.shape == (resolve(mended, DATA).own,)


class Long(Known):
    """Keeps more than it declares."""

    def answer(self, assignment, clients, memory, contexts):
        return [
            Contribution(each.vector, np.ones(9, np.float32)) for each in super().answer(assignment, clients, memory, contexts)
        ]


@pytest.mark.parametrize("layers", [[], [Feedback(4)]], ids=["no layer", "feedback"])
def test_more_memory_than_was_declared_is_an_error_that_names_the_client(layers):
    with pytest.raises(mn.ClientFailed, match=r"client-0.*shape \(9,\).*declares 1 numbers"):
        mn.simulate(mn.Study(Long(), 2, layers=layers), DATA, workers=0)
