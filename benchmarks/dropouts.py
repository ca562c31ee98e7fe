"""Rounds that a federation completes while sites drop out, links break and processes die; and whether each sum is exact.

    python benchmarks/dropouts.py [--sites 10] [--rounds 10] [--seed 0] [--only NAME] [--json]
    python benchmarks/dropouts.py --storms 40 [--seed 0] [--json]

This runs the real code of server and sites on a virtual clock (`manent.storm.federation`): hours of waiting take seconds, and a
seed always gives the same course. Each site's vector has a one in a place of its own, so a sum shows who is in it and how often.

Scenarios, each with `Plain` and with `SecAgg`: 0, 10, 30 and 50% of the sites vanish in each round, each at a random step of the
protocol, and are back afterwards; a partition keeps a third of the sites away for ten minutes; nobody has a link for ten minutes;
requests and answers are lost, and sites and the server's two processes are killed. SecAgg is set to tolerate 40%.

`completed`, `abandoned`: rounds. `exact`: completed rounds whose sum is, bit for bit, that of the sites that the server names.
`wrong`, `lost`, `double`: sums that are not; acknowledged uploads that a sum lacks; sites that a sum has twice. `answers`: of the
sites, on average over the completed rounds. The result goes to benchmarks/results/dropouts.json.

With `--storms`, this runs so many courses of two rounds, one for each seed. Each draws its own faults, sites, partitions, killed
server processes, studies that run at once, and a site that is taken off the roster. `unfinished`: courses that did not end, or
after which a site still waits for the end of a sum. The result goes to benchmarks/results/storms.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from common import keep, show

import manent as mn
from manent.core.randomness import repeatable
from manent.storm.faults import Faults
from manent.storm.federation import Cut, Federation, Weather

HARSH = Faults(
    drop=0.05,
    lost_response=0.05,
    delay=(0.02, 2.0),
    outage=0.01,
    outage_for=(5.0, 60.0),
    crash=0.02,
    restart_after=(1.0, 20.0),
    until=1e9,
)
MILD = {"drop": 0.2, "lost_response": 0.2, "crash": 0.05, "outage": 0.05}  # of each request, at most
COLUMNS = ("completed", "abandoned", "exact", "wrong", "lost", "double", "answers", "virtual_s")


def weathers(sites: int) -> Mapping[str, tuple[Weather, int]]:
    """The scenarios: what goes wrong, and how many processes the server has."""
    third = tuple(range(sites // 3))
    vanish = {f"{share:.0%} vanish": (Weather(vanish=share), 1) for share in (0.0, 0.1, 0.3, 0.5)}
    return {
        **vanish,
        "partition": (Weather(cuts=(Cut(10.0, 610.0, third),)), 1),
        "10 minutes without a link": (Weather(cuts=(Cut(10.0, 610.0),)), 1),
        "losses, crashes, two server processes": (Weather(HARSH, server_lives=(20.0, 120.0)), 2),
    }


def course(weather: Weather, servers: int, summation: Any, sites: int, rounds: int, seed: int) -> dict[str, Any]:
    """One study from its beginning to its end."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Federation(Path(folder), sites, weather, seed, servers) as federation:
        federation.submit(summation, rounds, mn.Cohort(minimum=3))
        federation.run(86_400.0)
        watch = federation.watch
        return {
            "completed": watch.released,
            "abandoned": watch.abandoned,
            "exact": watch.exact,
            "wrong": len(watch.wrong) + len(watch.receipts),
            "lost": len(watch.lost),
            "double": len(watch.double),
            "answers": round(mean(watch.answers) / sites, 3) if watch.answers else None,
            "virtual_s": round(federation.stage.now),
            "over": watch.over,
            "attempts_again": watch.attempts,
            "requests": federation.requests,
            "killed": federation.killed,
            "seconds": round(time.monotonic() - began, 1),
            "violations": watch.violations,
        }


def storm(seed: int) -> dict[str, Any]:
    """A course whose seed draws what goes wrong."""
    rng = repeatable(seed, "dropouts: storm")
    drawn, sites = Faults.draw(rng), int(rng.integers(4, 8))
    mild = {name: min(getattr(drawn, name), most) for name, most in MILD.items()}
    faults = replace(drawn, **mild, until=float(rng.choice([300.0, 1e9])))
    cuts = [
        Cut(float(start), float(start + rng.choice([20, 200, 500])), tuple(rng.permutation(sites)[: rng.integers(1, sites + 1)]))
        for start in rng.uniform(0, 60, rng.integers(0, 3))
    ]
    lives = (5.0, float(rng.choice([40, 200]))) if rng.random() < 0.5 else None
    weather = Weather(faults, vanish=float(rng.choice([0.0, 0.2, 0.4])), cuts=cuts, server_lives=lives)
    summation = mn.SecAgg(minimum_cohort=3, dropped=0.4) if rng.random() < 0.6 else mn.Plain()
    of = (sites, weather, seed, int(rng.integers(1, 3)))
    with tempfile.TemporaryDirectory() as folder, Federation(Path(folder), *of) as federation:
        for number in range(int(rng.integers(1, 3))):
            federation.submit(summation, 2, mn.Cohort(minimum=3), f"study {number}")
        if rng.random() < 0.3:
            federation.at(float(rng.uniform(3, 60)), federation.remove, 0)
        federation.run(30_000.0, settle=2_000.0)
        watch = federation.watch
        return {
            "seed": seed,
            "completed": watch.released,
            "abandoned": watch.abandoned,
            "exact": watch.exact,
            "killed": federation.killed,
            "unfinished": not watch.over or not federation.at_rest,
            "violations": watch.violations,
        }


def storms(count: int, start: int, print_json: bool) -> None:
    found = []
    for seed in range(start, start + count):
        found.append(storm(seed))
        print(json.dumps(found[-1]), flush=True)
    totals = {name: sum(of[name] for of in found) for name in ("completed", "abandoned", "exact", "killed", "unfinished")}
    violations = [f"seed {of['seed']}: {text}" for of in found for text in of["violations"]]
    keep("storms" if count >= 40 else None, {"courses": count, "start": start, **totals, "violations": violations}, print_json)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="scenarios whose name has this text; nothing is kept then")
    parser.add_argument("--storms", type=int, default=0, help="so many courses, each with faults of its own, instead")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if chosen.storms:
        storms(chosen.storms, chosen.seed, chosen.json)
        return
    found: dict[str, dict[str, Any]] = {}
    for name, (weather, servers) in weathers(chosen.sites).items():
        for kind, summation in (("Plain", mn.Plain()), ("SecAgg", mn.SecAgg(minimum_cohort=3, dropped=0.4))):
            key = f"{kind}, {name}"
            if chosen.only is None or chosen.only in key:
                found[key] = course(weather, servers, summation, chosen.sites, chosen.rounds, chosen.seed)
                print(f"{key}: {json.dumps(found[key])}", flush=True)
    totals = {name: sum(values[name] for values in found.values()) for name in ("completed", "exact", "wrong", "lost", "double")}
    values = {"sites": chosen.sites, "rounds": chosen.rounds, "seed": chosen.seed, **totals, "scenarios": found}
    keep("dropouts" if chosen.only is None and chosen.rounds >= 10 else None, values, chosen.json)
    if not chosen.json:
        show("a federation in the storm", ("scenario", *COLUMNS), [(k, *(v[c] for c in COLUMNS)) for k, v in found.items()])


if __name__ == "__main__":
    main()
