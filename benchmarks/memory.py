"""How much memory a round takes as its cohort grows from 100 clients to 10,000, each with as many rows.

    python benchmarks/memory.py [--json] [--quick]

Every run is a process of its own, in which all clients take part in two rounds. Their rows are views of the same array, so the
data take the same memory in every run. Memory is the largest proportional set (PSS) of the whole process tree, workers included.
SCAFFOLD's clients keep a control variate each, in a file. The last line with --json is one object.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from child import Child
from common import keep, show

BARS = {"FedAvg": 1.3, "SCAFFOLD": 2.0}
ROWS, FEATURES, HIDDEN = 60, 784, {"FedAvg": 200, "SCAFFOLD": 50}


def run(algorithm: str, clients: int) -> None:
    """Two rounds of so many clients, in this process."""
    from peers.pace import Pace

    pace = Pace()
    from torch import nn

    import manent as mn

    rng = np.random.default_rng(0)
    x = rng.standard_normal((100 * ROWS, FEATURES), dtype=np.float32)
    y = rng.integers(0, 10, len(x))
    windows = [slice(ROWS * (i % 100), ROWS * (i % 100 + 1)) for i in range(clients)]
    held = tuple(mn.Client(f"client-{i}", mn.Examples(x[rows], y[rows])) for i, rows in enumerate(windows))
    data = mn.Federation(held, mn.Schema(shape=(FEATURES,), classes=10))
    width = HIDDEN[algorithm]
    model = mn.TorchModel(nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, 10)), "cross_entropy")
    local = mn.LocalSGD(lr=0.05, epochs=1, batch_size=20)
    algorithms = {"FedAvg": mn.FedAvg, "SCAFFOLD": mn.SCAFFOLD}
    mn.simulate(mn.Study(algorithms[algorithm](model, local), 2), data, workers=2, watcher=pace)
    pace.say(parameters=model.layout.size)


def peak(algorithm: str, clients: int) -> dict[str, float]:
    """Megabytes, and the number of parameters."""
    print(f"{algorithm}, {clients:,} clients", file=sys.stderr, flush=True)
    with Child([sys.executable, __file__, "--run", algorithm, str(clients)]) as child, child.watched():
        child.hear()
        child.ask(1)
        parameters = child.ask(1)["parameters"]
    return {"peak_memory_mb": round(child.peak / 1e6, 1), "parameters": parameters}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="up to 2,000 clients")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.run:
        return run(chosen.run[0], int(chosen.run[1]))
    few, many = 100, 2000 if chosen.quick else 10_000
    found: dict[str, Any] = {}
    for algorithm in BARS:
        one, other = peak(algorithm, few), peak(algorithm, many)
        found[algorithm] = {
            "parameters": one["parameters"],
            "clients": [few, many],
            "peak_memory_mb": [one["peak_memory_mb"], other["peak_memory_mb"]],
            "ratio": round(other["peak_memory_mb"] / one["peak_memory_mb"], 3),
        }
    rows = [(name, *f["peak_memory_mb"], f["ratio"], BARS[name], f["parameters"]) for name, f in found.items()]
    columns = ("algorithm", f"MB, {few} clients", f"MB, {many:,} clients", "ratio", "bar", "parameters")
    show("Memory of a round", columns, rows)
    keep(None if chosen.quick else "memory", found, chosen.json)


if __name__ == "__main__":
    main()
