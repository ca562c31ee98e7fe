"""What other tools are told of a run."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field

import pytest

import manent as mn
from tests.algorithms.federations import make, model_for

METRICS = {"accuracy": 0.5, "loss": 1.25}


def study(rounds=3):
    return mn.Study(mn.FedAvg(model_for("softmax"), mn.LocalSGD(lr=0.1, epochs=1)), rounds)


@dataclass
class Remembering:
    told: list = field(default_factory=list)

    def advance(self, round, clients, metrics):
        self.told.append((round, clients, metrics))


def test_several_watchers_are_told_the_same():
    first, second = Remembering(), Remembering()
    mn.simulate(study(), make("softmax", [6, 9, 4]), workers=0, watcher=(first, second))
    assert first.told == second.told
    assert [round for round, _, _ in first.told] == [1, 2, 3]


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = Remembering()
    with mn.TensorBoardLogger(tmp_path / "board") as logger:
        run = mn.simulate(study(), make("softmax", [6, 9, 4]), workers=2, watcher=(logger, seen))
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    name = next(iter(seen.told[0][2]))
    assert set(board.Tags()["scalars"]) == {"clients", *seen.told[0][2]}
    assert [(e.step, e.value) for e in board.Scalars("clients")] == [(1, 3.0), (2, 3.0), (3, 3.0)]
    assert [e.value for e in board.Scalars(name)] == pytest.approx([metrics[name] for _, _, metrics in seen.told])
    assert run.history[-1]["round"] == 3


@pytest.fixture
def store(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return f"file://{tmp_path}/mlruns"


def test_mlflow_knows_what_was_logged(store):
    from mlflow import MlflowClient

    with mn.MLflowLogger("hospitals", uri=store, run="first") as logger:
        for round in (1, 2):
            logger.advance(round, 4, METRICS)
    with pytest.raises(RuntimeError), mn.MLflowLogger("hospitals", uri=store) as other:
        raise RuntimeError
    client = MlflowClient(tracking_uri=store)
    history = client.get_metric_history(logger.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.25), (2, 1.25)]
    first, second = client.get_run(logger.run_id), client.get_run(other.run_id)
    assert first.data.metrics == {"clients": 4.0, **METRICS}
    assert (first.info.run_name, first.info.status, second.info.status) == ("first", "FINISHED", "FAILED")
    assert first.info.experiment_id == second.info.experiment_id


@pytest.mark.parametrize(("package", "logger"), [("tensorboard", mn.TensorBoardLogger), ("mlflow", mn.MLflowLogger)])
def test_a_missing_package_is_said(package, logger, monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(mn.MissingExtra, match=rf"manent\[{package}\]"):
        logger(tmp_path)
    assert not list(tmp_path.iterdir())
