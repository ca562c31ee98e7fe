"""A thousand rounds leave nothing behind: memory, file handles and processes over a study of Job A.

Job A: a 2NN of 199,210 parameters, 1,000 clients of MNIST (two shards each), 100 a round, one epoch in batches of 10.

    python benchmarks/endurance.py [--json] [--rounds 1000] [--folder IDX_FOLDER]
"""

from __future__ import annotations

import argparse
import os
import tempfile

import numpy as np
from common import keep, show
from memory import proportional_set, tree
from torch import nn

import manent as mn


class Watch:
    """Looks at this process and its workers every so many rounds."""

    def __init__(self, every: int) -> None:
        self.every, self.rows = every, []

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        if round % self.every == 0:
            processes = tree(os.getpid())
            files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes)
            self.rows.append((round, sum(map(proportional_set, processes)), files, len(processes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--folder", help="where MNIST's IDX files are")
    options = parser.parse_args()
    data = mn.data.mnist(clients=1000, split=mn.data.Shards(2), flat=True, folder=options.folder)
    network = nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    algorithm = mn.FedAvg(mn.TorchModel(network, "cross_entropy"), mn.LocalSGD(lr=0.1, epochs=1, batch_size=10))
    study = mn.Study(algorithm, rounds=options.rounds, cohort=mn.Cohort(size=100))
    watch = Watch(max(options.rounds // 20, 1))
    with tempfile.TemporaryDirectory() as folder:
        run = mn.simulate(study, data, workers=2, watcher=watch, evaluate_every=options.rounds, folder=f"{folder}/run")
    show("Over a study of Job A", ("round", "memory, MB", "open files", "processes"), watch.rows)
    rounds, memory, files, processes = (np.array(column, float) for column in zip(*watch.rows, strict=True))
    late = slice(len(rounds) // 4, None)  # the first quarter warms caches up
    found = {
        "rounds": options.rounds,
        "seconds": run.seconds,
        "mb_per_1000_rounds": float(np.polyfit(rounds[late], memory[late], 1)[0] * 1000),
        "mb_first": float(memory[late][0]),
        "mb_last": float(memory[-1]),
        "files_grown": int(files[-1] - files[0]),
        "processes_grown": int(processes[-1] - processes[0]),
        "accuracy": run.probe[-1]["test"]["accuracy"],
    }
    keep("endurance", found, options.json)


if __name__ == "__main__":
    main()
