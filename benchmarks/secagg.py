"""What a round of secure aggregation costs, beside what it cannot do without.

    python benchmarks/secagg.py --clients 100 --dim 1000000 --dropout 0.1 [--graph complete] [--suite hybrid] [--json]
    python benchmarks/secagg.py --table bonawitz | large | expansion | flower [--json]

The clients are real and run first, in worker processes. The server then gets their messages from files, in a process of its own
(see secagg_rounds.py). Clients vanish where it costs the server most: after their shares, before their upload.

`client_ms` is the processor time of one client, by step, as the median over all: "open" opens the neighbours' shares and agrees
on the masks' keys, "mask" adds masks and packs. `server_s` is the wall time of all that the server does, in the fastest of
several runs. `floor_s` is the time of its masks with cipher and NumPy alone, and of its key agreements, in one thread of the same
process. `ratio_to_floor` is server_s over floor_s; the time of the last step, in which masks come off, counts once for each
thread. `cpu_ratio_to_floor` is the same with processor time, which other processes disturb less. `peak_memory_mb` is the server's
peak above what it held before the round. `round_s` is the whole round on this machine: all the clients' halves and the server's.
`--folder` keeps the clients' messages there, and reads them if they are there already. `--record` stops once they are recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, keep, show
from secagg_report import report
from secagg_rounds import Job, play, record

from manent.summation.parties import wire
from manent.summation.secagg import bodies, ring
from manent.summation.secagg.terms import Terms

HERE = Path(__file__).parent
# Server seconds in one thread at d = 100,000, by clients and share of drop-outs: Bonawitz et al., CCS 2017. Figures from memory;
# the paper was not at hand to compare.
BONAWITZ = {(1000, 0.0): 4.9, (1000, 0.1): 180.9, (1000, 0.3): 413.8}
BARS = {"ratio_to_floor": 1.3, "mask_ms": 80, "peak_memory_mb": 200, "expansion": 1.70, "flower": 100}
COLUMNS = ("job", "k", "t", "dropped", "server s", "CPU s", "floor s", "ratio", "client ms", "memory MB", "round s", "exact")


def measured(job: Job, dropout: float, chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A round, recorded unless it is recorded already, and played in a process of its own."""
    recorded(job, chosen.workers, folder)
    command = [sys.executable, __file__, "--play", str(folder), "--dropout", str(dropout)]
    command += ["--threads", str(chosen.threads), "--runs", str(chosen.runs)]
    print(f"server of {folder.name}, {dropout:.0%} dropped", file=sys.stderr, flush=True)
    played = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    if not played["exact"]:
        raise SystemExit(f"No sum, or a wrong one, came of {folder}. Recorded by another version? Then remove it.")
    facts, terms = json.loads((folder / "facts.json").read_text())[f"{dropout:g}"], job.terms()
    clear = 2 * job.size
    return {
        "clients": job.clients,
        "dim": job.size,
        "dropout": dropout,
        "degree": terms.degree,
        "threshold": terms.threshold,
        "bits": terms.bits,
        "suite": "hybrid" if job.hybrid else "classical",
        "threads": chosen.threads,
        "client_ms": facts["client_ms"],
        **played,
        "round_s": facts["clients_s"] + played["server_s"],
        "expansion_up": played["bytes_up"]["total"] / clear,
        "expansion_both_ways": (played["bytes_up"]["total"] + played["bytes_down"]["total"]) / clear,
    }


def recorded(job: Job, workers: int, folder: Path) -> None:
    if not (folder / "job.json").exists():
        print(f"clients of {folder.name}", file=sys.stderr, flush=True)
        record(job, folder, workers)
    elif Job.load(folder) != job:
        raise SystemExit(f"{folder} holds another round: {Job.load(folder)}. Name another folder.")


def row(values: dict[str, Any]) -> tuple[object, ...]:
    name = f"n={values['clients']:,} d={values['dim']:,} {values['suite']}"
    about = (values["degree"], values["threshold"], f"{values['dropout']:.0%}")
    times = [f"{values[key]:.2f}" for key in ("server_s", "server_cpu_s", "floor_s", "ratio_to_floor")]
    client = f"{sum(values['client_ms'].values()):.0f}"
    return (name, *about, *times, client, f"{values['peak_memory_mb']:.0f}", f"{values['round_s']:.0f}", values["exact"])


def one(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The round that the options describe."""
    job = Job(
        chosen.clients,
        chosen.dim,
        planned=max(0.1, chosen.dropout),
        dropouts=(chosen.dropout,),
        complete=chosen.graph == "complete",
        hybrid=chosen.suite == "hybrid",
        value_bits=chosen.value_bits,
    )
    values = measured(job, chosen.dropout, chosen, folder / name_of(job))
    show("A round of secure aggregation", COLUMNS, [row(values)])
    show("One client", ("step", "ms"), list(values["client_ms"].items()))
    show("The server", ("step", "s"), list(values["server_by_phase_s"].items()))
    return values


def name_of(job: Job) -> str:
    graph = "complete" if job.complete else f"harary{job.planned:g}"
    return (
        f"n{job.clients}-d{job.size}-{graph}-{'hybrid' if job.hybrid else 'classical'}-{'-'.join(f'{x:g}' for x in job.dropouts)}"
    )


def bonawitz(chosen: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """n = 1,000, d = 100,000: the complete graph, beside what was published for it, and the sparse one."""
    jobs = [Job(1000, 100_000, 0.3, (0.0, 0.1, 0.3))]
    jobs += [Job(1000, 100_000, 0.1, (0.0, 0.1), complete=False), Job(1000, 100_000, 0.3, (0.3,), complete=False)]
    return rounds(jobs, chosen, folder)


def large(chosen: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """n = 10,000, d = 10,000, k-regular."""
    return rounds([Job(10_000, 10_000, 0.1, (0.1,), complete=False)], chosen, folder)


def rounds(jobs: list[Job], chosen: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    found = []
    for job in jobs:
        recorded(job, chosen.workers, folder / name_of(job))
        if not chosen.record:
            found += [measured(job, dropout, chosen, folder / name_of(job)) for dropout in job.dropouts]
    for values in found:
        values["published_s"] = BONAWITZ.get((values["clients"], values["dropout"])) if is_complete(values) else None
    rows = [(*row(values), values["published_s"] or "") for values in found]
    if rows:
        show("The server, in one thread unless told otherwise", (*COLUMNS, "Bonawitz s (recalled)"), rows)
    return found


def is_complete(values: dict[str, Any]) -> bool:
    return bool(values["degree"] == values["clients"] - 1)


def flower(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The server of Flower's SecAgg+ with the same work, a tenth of it measured, and this one."""
    python = HERE.parent / ".venv-peers" / "bin" / "python"
    if not (python.parent.parent / ".installed").exists():
        raise SystemExit("Flower is not installed (.venv-peers; see make peers).")
    ours = {}
    for suite in ("classical", "hybrid"):
        job = Job(100, 1_000_000, 0.1, (0.1,), hybrid=suite == "hybrid")
        ours[suite] = measured(job, 0.1, chosen, folder / name_of(job))
    threshold = str(ours["classical"]["threshold"])
    command = [str(python), str(HERE / "peers" / "flower_secagg.py"), "100", "1000000", "0.1", threshold, str(chosen.parts)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    values = {
        "flower": theirs,
        "flower_server_cpu_s": theirs["server_cpu_s"],
        "server_cpu_s": {suite: values["server_cpu_s"] for suite, values in ours.items()},
        "times_less": {suite: theirs["server_cpu_s"] / values["server_cpu_s"] for suite, values in ours.items()},
    }
    rows = [(f"manent, {suite}", value["server_cpu_s"], values["times_less"][suite]) for suite, value in ours.items()]
    rows.append((f"Flower 1.41, 1/{chosen.parts} of it measured", theirs["server_cpu_s"], 1.0))
    show("The server at n=100, d=1,000,000, complete graph, 10% dropped", ("", "CPU s", "times less"), rows)
    return values


def sizes(terms: Terms, call: int) -> tuple[int, int]:
    """Bytes that a client sends and gets if it stays to the end, from the wire format; the mean over positions."""
    k, kem, head = terms.degree, terms.hybrid, wire.HEAD
    advert = 4 + 3 * 32 + 64 + 2 * bodies.KEM_KEY * kem
    parcel = 4 + bodies.SEALED + bodies.KEM_TEXT * kem
    shares = 4 + k * parcel + k / 2 * (bodies.KEM_TEXT + bodies.KEPT) * kem
    upload = ring.packed_size(terms.size, terms.bits) + 32  # what it says of its masks
    up = (advert, shares, upload, 64, 32 + 4 + k * bodies.OPENED)
    down = (call, 4 + k * advert, 4 + k * parcel + k / 2 * bodies.KEM_TEXT * kem, 0, -(-terms.clients // 8), 4 + (k + 1) * 68, 1)
    return int(sum(up) + head * len(up)), int(sum(down) + head * len(down))


def expansion(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bytes that a client sends and gets, over its vector in 16-bit numbers, by a formula that is compared with real rounds."""
    calls = 0
    for complete, hybrid in ((True, False), (True, True), (False, False), (False, True)):
        job = Job(60, 501, 0.1, (0.0,), complete=complete, hybrid=hybrid)
        values = measured(job, 0.0, chosen, folder / name_of(job))
        calls = values["bytes_down"]["advertise"]
        found, said = (values["bytes_up"]["total"], values["bytes_down"]["total"]), sizes(job.terms(), calls - wire.HEAD)
        if any(abs(a - b) > 2 for a, b in zip(found, said, strict=True)):  # each phase's mean is rounded
            raise SystemExit(f"The formula gives {said}; a client of a round of {job} sent and got {found}.")
    rows = []
    for size in (2**20, 199_210, 1_663_370):
        for complete in (False, True):
            for hybrid in (False, True):
                terms = Job(1024, size, 0.1, (), complete=complete, hybrid=hybrid).terms()
                up, down = sizes(terms, calls - wire.HEAD)
                about = {
                    "dim": size,
                    "graph": "complete" if complete else "k-regular",
                    "suite": "hybrid" if hybrid else "classical",
                }
                ways = {"degree": terms.degree, "bits": terms.bits, "bytes_up": up, "bytes_down": down}
                rows.append(about | ways | {"up": up / 2 / size, "both_ways": (up + down) / 2 / size})
    show("Over the clear 16-bit vector, n=1,024", tuple(rows[0]), [tuple(row.values()) for row in rows])
    return {"formula_checked": True, "rows": rows}


TABLES = {"bonawitz": bonawitz, "large": large, "flower": flower, "expansion": expansion}


def save(name: str, values: object, print_json: bool) -> None:
    """Keep a section of the results, with the other sections as they are."""
    path = RESULTS / "secagg.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    before.pop("environment", None)
    keep("secagg", found := {**before, name: values}, False)
    (RESULTS / "secagg.md").write_text(report(found))
    if print_json:
        print(json.dumps(values if isinstance(values, dict) else {name: values}))


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--dim", type=int, default=1_000_000)
    parser.add_argument("--dropout", type=float, default=0.1, help="share of clients that vanish after their shares")
    parser.add_argument("--graph", choices=("complete", "harary"), default="complete")
    parser.add_argument(
        "--suite", choices=("classical", "hybrid"), default="hybrid", help="hybrid: with ML-KEM-768, as by default"
    )
    parser.add_argument("--value-bits", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="that take masks off")
    parser.add_argument("--runs", type=int, default=5, help="of the server; the fastest counts")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes for the clients")
    parser.add_argument("--table", choices=tuple(TABLES))
    parser.add_argument("--parts", type=int, default=10, help="of Flower's owners of secrets, one in so many is measured")
    parser.add_argument("--folder", type=Path, help="where the clients' messages are kept")
    parser.add_argument("--record", action="store_true", help="stop when they are there (one round, bonawitz, large)")
    parser.add_argument("--keep", help="the section of benchmarks/results/secagg.json that a single round goes to")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    chosen = options().parse_args()
    if chosen.play:
        print(json.dumps(play(chosen.play, chosen.dropout, chosen.threads, chosen.runs)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = chosen.folder or Path(place)
        values: Any = TABLES[chosen.table](chosen, folder) if chosen.table else one(chosen, folder)
    name = chosen.table or chosen.keep
    if name and not chosen.record:
        save(name, values, chosen.json)
    elif chosen.json:
        print(json.dumps(values))


if __name__ == "__main__":
    main()
