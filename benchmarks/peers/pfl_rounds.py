"""The same federated averaging in pfl-research: one of the processes that add up over gloo; `pfl_research.py` starts them.

Cohorts and orders of rows are its own draws.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch
from pace import Pace
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from shared import Work, network, put
from torch import Tensor, nn


class Net(nn.Module):
    """The network with the loss that pfl asks of a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def loss(self, x: Tensor, y: Tensor, is_eval: bool = False) -> Tensor:
        return nn.functional.cross_entropy(self.inner(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        return {}


class Paced(TrainingProcessCallback):
    """Says when a round is over; the other processes wait for it."""

    def __init__(self, pace: Pace | None) -> None:
        self.pace = pace

    def after_central_iteration(self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int) -> tuple[bool, Metrics]:
        if self.pace is not None:
            self.pace.round_over()
        torch.distributed.barrier()
        return False, Metrics()


def main() -> None:
    first = os.environ["RANK"] == "0"
    pace, work = Pace() if first else None, Work(sys.argv[1], mapped=True)
    torch.set_num_threads(1)
    np.random.seed(1)  # noqa: NPY002 - the processes draw the same cohorts from it
    facts, inner = work.facts, network(work.facts["job"])
    put(inner, torch.from_numpy(work.start))

    def data_of(client: int) -> Dataset:
        rows = work.rows(client)
        x, y = torch.from_numpy(work.x[rows]), torch.from_numpy(work.y[rows])
        order = torch.randperm(len(y))
        return Dataset([x[order], y[order]], user_id=str(client))

    data = FederatedDataset(data_of, get_user_sampler("random", list(range(facts["clients"]))))
    model = PyTorchModel(Net(inner), torch.optim.SGD, torch.optim.SGD(inner.parameters(), lr=1.0))
    rounds = facts["rounds"]
    FederatedAveraging().run(
        NNAlgorithmParams(rounds, evaluation_frequency=10**9, train_cohort_size=facts["cohort"], val_cohort_size=0),
        SimulatedBackend(data, data, postprocessors=[WeightByDatapoints()]),
        model,
        NNTrainHyperParams(local_batch_size=facts["batch_size"], local_num_epochs=1, local_learning_rate=facts["lr"]),
        callbacks=[Paced(pace)],
        send_metrics_to_platform=False,
    )
    if pace is not None:
        pace.say(accuracy=work.accuracy(inner))


if __name__ == "__main__":
    main()
