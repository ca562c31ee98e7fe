"""Rounds of secure aggregation under seeded faults: is any sum wrong, any client counted twice, any acknowledged upload lost?

    python benchmarks/storm.py --rounds 100000 [--start SEED] [--workers 2] [--json]

Each seed draws the cohort, the graph, the adversary, the suite, the ring, and what goes wrong: drops, delays, duplicates, lost
responses, partitions, crashes with torn writes, restarts from what was kept. A failing seed is printed with the command that
replays it. Invariants: see INVARIANTS. The last line with --json is one object; it is kept in benchmarks/results/storm.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.progress import track

from manent.storm import Outcome, Verdict, run, scenario

sys.path.insert(0, str(Path(__file__).parent))
from common import keep

INVARIANTS = {
    "wrong sum": "a sum that is formed is the sum of the vectors of exactly the survivors",
    "double": "no client's vector is in a sum twice",
    "lost": "an upload that was acknowledged is in the sum, if there is one",
    "two sums": "every life of the server that forms the sum forms the same",
    "too few": "no sum has fewer survivors than was agreed on",
    "changed message": "a message that is sent again is the same bytes, whatever crashed between",
    "no end": "every round ends, with a sum or an abort",
    "error": "no party raises anything but a typed abort",
    "address": "no party sends in another's name",
}


def campaign(rounds: int, start: int, workers: int) -> tuple[Outcome, float]:
    began = time.monotonic()
    bar = iter(track(range(rounds), f"{rounds:,} rounds"))

    def told(_: Verdict) -> None:
        next(bar, None)

    outcome = run(scenario("secagg"), range(start, start + rounds), workers=workers, told=told)
    next(bar, None)
    return outcome, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, metavar="SEED")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    outcome, seconds = campaign(given.rounds, given.start, given.workers)
    found = outcome.violations()
    out = {
        "rounds": outcome.rounds,
        "wrong_sums": found.get("wrong sum", 0) + found.get("two sums", 0),
        "double": found.get("double", 0),
        "lost": found.get("lost", 0),
        "aborts": outcome.outcomes.get("aborted", 0),
        "violations": found,
        "outcomes": outcome.outcomes,
        "faults_met": outcome.met,
        "rounds_per_second": round(outcome.rounds / seconds, 1),
        "start": given.start,
        "invariants": INVARIANTS,
    }
    for verdict in outcome.failures[:20]:
        print(f"seed {verdict.seed}: {'; '.join(verdict.violations)}\n  manent storm --scenario secagg --seed {verdict.seed}")
    print(f"{outcome.rounds:,} rounds in {seconds:.0f} s: {outcome.outcomes}; violations: {found or 'none'}")
    keep("storm" if given.rounds >= 10_000 else None, out, given.json)


if __name__ == "__main__":
    main()
