"""Black-box audits: a lower bound on epsilon, from what the real layers release, beside the epsilon that is stated.

    python benchmarks/epsilon_audits.py --json

For each mechanism and relation, two neighbouring worlds are run through the plan of a real study: the client halves of its
layers, the sum, the server half. Each observer gets what it sees, takes off what it knows, and tells the worlds apart as well as
it can. `audits` has a row for each observer with a stated epsilon; `unclaimed` says why there is none for the others. The bounds
hold jointly with probability 0.95: each of n holds with 1 - 0.05 / n. `tightness` is the bound over what is stated. The exit code
is 1 where a bound lies above what is stated, as the statement is then wrong. `benchmarks/audits/bounds.py` has the mathematics.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import common
from audits import training
from audits.bounds import summary
from audits.cases import CASES, RELATIONS, STEPS, Outcome, run

SAMPLES = 80_000
FALSE = 0.05


def jobs(only: str = "") -> list[tuple[str, str]]:
    """Name and relation of every case whose name holds this text."""
    found = [(case.mechanism, relation) for case in CASES for relation in case.relations]
    found += [(step.mechanism, relation) for step in STEPS for relation in RELATIONS if relation != "zero_out"]
    return [job for job in found if only in job[0]]


def one(job: tuple[str, str, int]) -> Outcome:
    """One case under one relation, by its name."""
    name, relation, samples = job
    known: dict[str, Any] = {case.mechanism: case for case in CASES} | {step.mechanism: step for step in STEPS}
    case = known[name]
    if isinstance(case, training.Step) and "network" in name:
        import torch

        torch.set_num_threads(1)
    return run(case, relation, samples)


def measure(samples: int, false: float, only: str = "", workers: int = 0) -> dict[str, Any]:
    """Audits of all cases, whose bounds hold jointly with probability 1 - false."""
    start = time.monotonic()
    work = [(*job, samples) for job in jobs(only)]
    if workers:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            outcomes = list(pool.map(one, work))
    else:
        outcomes = [one(job) for job in work]
    taken = [each for found, _ in outcomes for each in found]
    audits = [each.found(false / len(taken)) for each in taken]
    return {
        "audits": audits,
        "unclaimed": [each for _, found in outcomes for each in found],
        "above": [row for row in audits if row["lower"] > row["stated"]],
        "confidence": 1 - false,
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of each world, at most; half choose the distinguisher")
    parser.add_argument("--only", default="", metavar="TEXT", help="only mechanisms whose name holds this text")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 works in this one")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    options = parser.parse_args()
    found = measure(options.samples, FALSE, options.only, options.workers)
    columns = ("mechanism", "relation", "observer", "stated", "lower", "tightness")
    common.show("Lower bounds on epsilon", columns, [[row[column] for column in columns] for row in found["audits"]])
    for row in found["unclaimed"]:
        print(f"unclaimed: {row['mechanism']}, {row['relation']}, {row['observer']}: {row['reason']}")
    for row in found["above"]:
        print("ABOVE WHAT IS STATED:", summary(row))
    whole = not options.only and options.samples >= SAMPLES
    common.keep("epsilon_audits" if whole else None, found, options.json)
    return int(bool(found["above"]))


if __name__ == "__main__":
    sys.exit(main())
