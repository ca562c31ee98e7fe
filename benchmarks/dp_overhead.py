"""What client-level differential privacy costs in seconds a round.

    python benchmarks/dp_overhead.py [--json] [--rounds 6] [--repeats 5]

The job: a network of 784-200-200-10 on MNIST, 1,000 clients of two shards each, 100 a round, one local epoch in batches of 10.
Three studies, which differ only in their layers and all have equal weights, take turns, so that other load on the machine affects
all alike. A round's time is the median over all rounds but the first and the last of each run; the last is evaluated. Without
MNIST on this machine, random pictures of the same shape are used, which cost the same. The last line with --json is one object:
`ratio` is the time with central noise over that with none, `distributed_ratio` the time with shares of noise over that with none.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import manent as mn
from manent.core.layers import Layer

sys.path.insert(0, str(Path(__file__).parent))
from common import keep, show

TARGET = 1.35


class Clock:
    """Notes when each round is over."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        self.times.append(time.monotonic())


def federation() -> tuple[mn.Federation, str]:
    try:
        return mn.data.mnist(clients=1000, split=mn.data.Shards(2), flat=True), "MNIST"
    except mn.ManentError:
        rng = np.random.default_rng(0)
        clients = [
            mn.Client(str(i), mn.Examples(rng.random((60, 784), np.float32), rng.integers(0, 10, 60))) for i in range(1000)
        ]
        return mn.Federation(tuple(clients), mn.Schema(shape=(784,), classes=10)), "random pictures"


def studies(rounds: int) -> dict[str, mn.Study]:
    from torch import nn

    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    local = mn.LocalSGD(lr=0.1, epochs=1, batch_size=10)
    algorithm = mn.FedAvg(mn.TorchModel(net, "cross_entropy"), local, weighting="equal")
    layers: dict[str, list[Layer]] = {
        "none": [],
        "central": [mn.Clip(1.0), mn.CentralNoise(1.0)],
        "distributed": [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=1.0)],
        "distributed, 20 bits, rotated": [
            mn.Clip(1.0),
            mn.Discretize(bits=20, rotation=True),
            mn.DistributedNoise(noise_multiplier=1.0),
        ],
    }
    return {name: mn.Study(algorithm, rounds, mn.Cohort(size=100), layers=each) for name, each in layers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    data, name = federation()
    seconds: dict[str, list[float]] = {study: [] for study in studies(options.rounds)}
    for repeat in range(options.repeats):
        for label, study in studies(options.rounds).items():
            clock = Clock()
            mn.simulate(study, data, seed=repeat, workers=options.workers, evaluate_every=options.rounds, watcher=clock)
            seconds[label] += list(np.diff(clock.times[:-1]))
    medians = {label: float(np.median(found)) for label, found in seconds.items()}
    ratios = {label: found / medians["none"] for label, found in medians.items()}
    rows = [(label, medians[label], ratios[label]) for label in medians]
    show(f"Seconds a round on {name}, 100 clients, {options.workers} workers", ("noise", "s", "ratio"), rows)
    values = {
        "ratio": ratios["central"],
        "distributed_ratio": ratios["distributed"],
        "distributed_20_bits_ratio": ratios["distributed, 20 bits, rotated"],
        "target": TARGET,
        "seconds": medians,
        "data": name,
    }
    keep("dp_overhead", values, options.json)


if __name__ == "__main__":
    main()
