"""The same federated averaging in Flower's simulation: Ray, with two actors of one processor each.

Cohorts and orders of rows are its own draws.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Ray's actors import what lies beside this file, and are to use one thread.
os.environ |= {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from pace import Pace
from shared import descend, network, put, work_in

ACTORS = 2
FOLDER = sys.argv[1]


def client_of(folder: str) -> ClientApp:
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        work = work_in(folder)
        rows = work.rows(int(context.node_config["partition-id"]))
        model = network(work.facts["job"])
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        x, y = torch.from_numpy(work.x[rows]), torch.from_numpy(work.y[rows])
        descend(model, x, y, torch.randperm(len(y)), work.facts["batch_size"], work.facts["lr"])
        content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(y)})}
        return Message(content=RecordDict(content), reply_to=message)

    return client


class Paced(FedAvg):
    """FedAvg that says when a round is over."""

    pace: Pace

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        arrays = super().aggregate_train(server_round, replies)
        self.pace.round_over()
        return arrays


def main() -> None:
    pace, work = Pace(), work_in(FOLDER)
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        facts, model = work.facts, network(work.facts["job"])
        put(model, torch.from_numpy(work.start))
        share = facts["cohort"] / facts["clients"]
        strategy = Paced(fraction_train=share, fraction_evaluate=0.0, min_train_nodes=facts["cohort"])
        strategy.pace = pace
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=facts["rounds"])
        model.load_state_dict(result.arrays.to_torch_state_dict())
        pace.say(accuracy=work.accuracy(model))

    run_simulation(
        server,
        client_of(FOLDER),
        work.facts["clients"],
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": ACTORS}},
    )


if __name__ == "__main__":
    main()
