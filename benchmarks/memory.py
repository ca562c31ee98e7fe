"""Memory of one round: it must not grow with the cohort.

FedAvg and SCAFFOLD (whose client memory lies on disk) with 100 and with 10,000 clients in one round, each client a view of the
same small data, on a network of 199,210 parameters. Each case runs in a process of its own; memory is the proportional set of
the process tree, at its highest.

    python benchmarks/memory.py [--json] [--clients 10000]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import keep, show

CASES = ("fedavg", "scaffold")


def run_case(name: str, clients: int) -> None:
    """Two rounds of everyone, in this process."""
    import numpy as np
    from torch import nn

    import manent as mn

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 784)).astype(np.float32), rng.integers(0, 10, 20)
    part = mn.Examples(x, y)
    data = mn.Federation(tuple(mn.Client(f"{i}", part) for i in range(clients)), mn.Schema(shape=(784,), classes=10))
    network = nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    algorithm = {"fedavg": mn.FedAvg, "scaffold": mn.SCAFFOLD}[name]
    study = mn.Study(algorithm(mn.TorchModel(network, "cross_entropy"), mn.LocalSGD(lr=0.01, epochs=1, batch_size=10)), rounds=2)
    mn.simulate(study, data, workers=2)


def peak_of(command: list[str]) -> float:
    """Highest proportional set of a command's process tree, in MB."""
    process = subprocess.Popen(command)
    peak = [0.0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], sum(proportional_set(pid) for pid in tree(process.pid)))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    watcher.join()
    return peak[0]


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(below for child in children for below in tree(int(child)))]


def proportional_set(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        run_case(options.case, options.clients)
        return
    rows, found = [], {}
    for name in CASES:
        few, many = (
            peak_of([sys.executable, __file__, "--case", name, "--clients", str(clients)]) for clients in (100, options.clients)
        )
        found[name] = {"mb_100": few, f"mb_{options.clients}": many, "ratio": many / few}
        rows.append((name, few, many, many / few))
    show("Memory of a round, MB", ("algorithm", "100 clients", f"{options.clients:,} clients", "ratio"), rows)
    keep("memory", found, options.json)


if __name__ == "__main__":
    main()
