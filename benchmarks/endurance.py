"""A study of 1,000 rounds of job A: whether memory, file handles or processes grow.

    python benchmarks/endurance.py [--json] [--rounds 1000] [--folder MNIST]

Every few rounds it measures the process with its workers: their proportional set (PSS), their open files, and how many they are.
Growth is the difference between the last fifth of the measurements and the second (during the first, buffers are still
allocated): of memory the mean, of the others the largest. The last line with --json is one object with the series.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from child import open_files, proportional_set, tree
from common import keep, show
from jobs import JOBS, SEED, torch_model

import manent as mn

LOOKS = 50


@dataclass(frozen=True)
class Look:
    """What was measured after a round."""

    round: int
    memory_mb: float
    files: int
    processes: int


@dataclass
class Looking:
    """A watcher that measures this process and its workers every few rounds."""

    every: int
    looks: list[Look] = field(default_factory=list)

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        if round % self.every == 0:
            me = os.getpid()
            memory = proportional_set(me) // 10**5 / 10
            self.looks.append(Look(round, memory, open_files(me), len(tree(me))))


def growth(looks: Sequence[Look]) -> dict[str, float]:
    """The growth from the second fifth of the measurements to the last."""
    fifth = max(len(looks) // 5, 1)
    early, late = looks[fifth : 2 * fifth], looks[-fifth:]
    return {
        "memory_mb": round(mean(look.memory_mb for look in late) - mean(look.memory_mb for look in early), 2),
        "files": max(look.files for look in late) - max(look.files for look in early),
        "processes": max(look.processes for look in late) - max(look.processes for look in early),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--folder", help="where MNIST's four files lie; otherwise as mn.data.mnist looks for them")
    chosen = parser.parse_args()
    job, looking = JOBS["A"], Looking(max(chosen.rounds // LOOKS, 1))
    data = job.data(chosen.folder)
    with tempfile.TemporaryDirectory() as place:
        run = mn.simulate(
            job.study(torch_model("A"), chosen.rounds),
            data,
            seed=SEED,
            workers=2,
            evaluate_every=max(chosen.rounds // LOOKS, 1),
            folder=Path(place, "run"),
            watcher=looking,
        )
    columns = ("round", "MB", "open files", "processes")
    show("Job A", columns, [(look.round, look.memory_mb, look.files, look.processes) for look in looking.looks])
    found = growth(looking.looks)
    print(f"Growth: {found['memory_mb']} MB, {found['files']} files, {found['processes']} processes.")
    values = {
        "rounds": chosen.rounds,
        "growth": found,
        "accuracy": run.probe[-1]["test"]["accuracy"],
        "seconds": round(run.seconds, 1),
        "series": [vars(look) for look in looking.looks],
    }
    keep("endurance" if chosen.rounds >= 1000 else None, values, chosen.json)


if __name__ == "__main__":
    main()
