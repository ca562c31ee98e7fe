"""Watchers that pass each round on to other tools: `simulate(..., watcher=TensorBoardLogger("runs/board"))`.

What they write is not private: the metrics are those of the probe, and each entry has its time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from manent.core.errors import MissingExtra


class TensorBoardLogger:
    """Writes each round's numbers to an event file, for `tensorboard --logdir FOLDER`.

    Raises MissingExtra without tensorboard (torch is not needed).
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise MissingExtra("tensorboard", "tensorboard", "TensorBoardLogger") from None
        self._event, self._summary = Event, Summary
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._writer = RecordWriter(open(path / name, "wb"))  # noqa: SIM115 - closed with the logger
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        """A round is over: write what is known of it."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in _numbers(clients, metrics).items()]
        self._write(self._event(wall_time=time.time(), step=round, summary=self._summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()


class MLflowLogger:
    """Logs each round's numbers to a new run of an MLflow experiment.

    Args:
        experiment: the name of the experiment, which is made where there is none.
        uri: of the tracking server or store; None takes MLflow's own setting.
        run: name of the run.

    `close` marks the run as finished. So does the end of a `with` block, which marks it as failed where the block raised.
    MLflow reports its use to its makers, unless MLFLOW_DISABLE_TELEMETRY=true is set. Raises MissingExtra without mlflow.
    """

    def __init__(self, experiment: str = "manent", *, uri: str | None = None, run: str | None = None) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric
        except ImportError:
            raise MissingExtra("mlflow", "mlflow", "MLflowLogger") from None
        self._metric, self._client = Metric, MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if found is None else found.experiment_id
        self.run_id: str = self._client.create_run(number, run_name=run).info.run_id

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        """A round is over: log what is known of it."""
        now = int(1000 * time.time())
        values = [self._metric(name, value, now, round) for name, value in _numbers(clients, metrics).items()]
        self._client.log_batch(self.run_id, metrics=values)

    def close(self, status: str = "FINISHED") -> None:
        """Mark the run as over."""
        self._client.set_terminated(self.run_id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close("FINISHED" if kind is None else "FAILED")


def _numbers(clients: int, metrics: Mapping[str, float]) -> dict[str, float]:
    return {"clients": float(clients), **metrics}
