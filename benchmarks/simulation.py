"""Speed and memory of simulated training, beside a bare PyTorch loop in two processes, and beside other libraries.

    python benchmarks/simulation.py [--json] [--quick] [--rounds N] [--only A.torch ...] [--folder MNIST]
    python benchmarks/simulation.py --beside CHECKOUT         # the same entries of another checkout, block by block

Each entry is a process of its own, which pauses between blocks of rounds. Blocks of all entries alternate, so that other load on
the machine affects all alike. `seconds_per_round` is the median over rounds and `ratio_to_bare` the median over blocks, both
without evaluation and start-up. `startup_s` runs from the start of the process to the end of its first round, less one round.
`peak_memory_mb` is the largest proportional set (PSS) of the whole process tree, measured outside the timed blocks. All but the
other libraries begin with the same weights and take the same clients and batches, so their accuracies must agree. The other
libraries run if `make peers` has installed them. The last line with --json is one object by entry.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from child import Child
from common import keep, show

HERE = Path(__file__).parent
BARS = {"A.torch": 0.6, "A.torch_other": 0.8, "A.jax": 0.45, "B.torch": 1.0, "B.jax": 1.3}
PEERS = {"flower": ("flower.py", ".venv-peers"), "pfl": ("pfl_research.py", ".venv-peers-pfl")}
ENTRIES = (*BARS, *(f"{job}.{peer}" for job in "AB" for peer in PEERS))


@dataclass(frozen=True)
class Pattern:
    """Rounds of each entry: one that starts it, some to warm up, blocks that are timed, and some whose memory is looked at."""

    warm: int
    blocks: int
    block: int
    last: int

    @property
    def rounds(self) -> int:
        return 1 + self.warm + self.blocks * self.block + self.last

    @classmethod
    def of(cls, job: str, timed: int) -> Pattern:
        block = min(timed, 6 if job == "A" else 1)
        return cls(warm=3 if job == "A" else 1, blocks=-(-timed // block), block=block, last=2 if job == "A" else 1)


@dataclass
class Entry:
    """A running process, and what was measured of it."""

    name: str
    child: Child
    startup: float = 0.0
    blocks: list[list[float]] = field(default_factory=list)
    accuracy: float = 0.0

    def ratio(self, other: Entry) -> float:
        """Of this entry's seconds to another's: the median over blocks, which ran one after another."""
        return round(median(median(ours) / median(theirs) for ours, theirs in zip(self.blocks, other.blocks, strict=True)), 3)

    def facts(self, bare: Entry) -> dict[str, float]:
        each = median(second for block in self.blocks for second in block)
        return {
            "seconds_per_round": round(each, 4),
            "ratio_to_bare": self.ratio(bare),
            "startup_s": round(max(self.startup - each, 0.0), 2),
            "peak_memory_mb": round(self.child.peak / 1e6),
            "accuracy": round(self.accuracy, 4),
        }


def command(name: str, folder: Path, mnist: str | None, rounds: int, script: Path = Path(__file__)) -> list[str]:
    """The command of an entry; `script` is this file, or that of another checkout.

    Raises FileNotFoundError, with what to do, for a library that is not installed.
    """
    kind = name.split(".")[1]
    if kind == "bare":
        return [sys.executable, str(HERE / "peers" / "bare.py"), str(folder)]
    if kind in PEERS:
        peer, environment = PEERS[kind]
        python = HERE.parent / environment / "bin" / "python"
        if not (python.parent.parent / ".installed").exists():
            raise FileNotFoundError(f"not installed ({environment}; see make peers)")
        return [str(python), str(HERE / "peers" / peer), str(folder)]
    options = ["--folder", mnist] if mnist else []
    return [sys.executable, str(script), "--run", name, "--rounds", str(rounds), "--start", str(folder / "start.npy"), *options]


def compare(job: str, names: Sequence[str], pattern: Pattern, mnist: str | None) -> dict[str, Any]:
    """What was measured of the bare loop and of each named entry of one job; the reason for one that cannot run."""
    from jobs import JOBS, write

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place, "job")
        write(JOBS[job], JOBS[job].data(mnist), pattern.rounds, folder)
        entries: list[Entry] = []
        for name in (f"{job}.bare", *names):
            try:
                child = stack.enter_context(Child(command(name, folder, mnist, pattern.rounds)))
            except FileNotFoundError as error:
                found[name] = str(error)
                continue
            try:
                entries.append(begun(name, child, pattern))
            except (EOFError, TimeoutError) as error:
                found[name] = f"failed: {error}"
        for number in range(pattern.blocks):
            print(f"{job}: block {number + 1} of {pattern.blocks}", file=sys.stderr, flush=True)
            for entry in entries:
                entry.blocks.append(entry.child.ask(pattern.block)["seconds"])
        for entry in entries:
            with entry.child.watched():
                entry.child.ask(pattern.last)
                entry.accuracy = entry.child.ask(1)["accuracy"]
        found |= {entry.name: entry.facts(entries[0]) for entry in entries}
    return {name: found[name] for name in (f"{job}.bare", *names)}


def beside(job: str, names: Sequence[str], pattern: Pattern, mnist: str | None, checkout: Path) -> dict[str, Any]:
    """Each entry of this checkout over the same entry of another: one process each, whose blocks alternate."""
    from jobs import JOBS, write

    found: dict[str, Any] = {}
    other = {"PYTHONPATH": str(checkout / "src")}, checkout / "benchmarks" / Path(__file__).name
    for name in names:
        with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
            folder = Path(place, "job")
            write(JOBS[job], JOBS[job].data(mnist), pattern.rounds, folder)
            pair = []
            for environment, script in (({}, Path(__file__)), other):
                started = command(name, folder, mnist, pattern.rounds, script)
                pair.append(begun(name, stack.enter_context(Child(started, environment)), pattern))
            for number in range(pattern.blocks):
                for entry in pair if number % 2 else pair[::-1]:
                    entry.blocks.append(entry.child.ask(pattern.block)["seconds"])
            for entry in pair:
                entry.child.ask(pattern.last)
                entry.accuracy = entry.child.ask(1)["accuracy"]
            ours, theirs = pair
            found[name] = {
                "ratio": ours.ratio(theirs),
                "seconds_per_round": median(second for block in ours.blocks for second in block),
                "equal_accuracy": ours.accuracy == theirs.accuracy,
            }
    return found


def begun(name: str, child: Child, pattern: Pattern) -> Entry:
    """An entry that has started and warmed up."""
    print(f"starting {name}", file=sys.stderr, flush=True)
    with child.watched():
        child.hear()
        startup = time.monotonic() - child.began
        child.ask(pattern.warm)
    return Entry(name, child, startup)


def run(name: str, rounds: int, mnist: str | None, start: Path) -> None:
    """One of our own entries, in this process."""
    from peers.pace import Pace

    pace = Pace()
    from jobs import JOBS, SEED, jax_model, torch_model

    import manent as mn

    job, kind = name.split(".")
    model = jax_model(job, start) if kind == "jax" else torch_model(job, plain_stack=kind == "torch")
    done = mn.simulate(
        JOBS[job].study(model, rounds), JOBS[job].data(mnist), seed=SEED, workers=2, evaluate_every=rounds, watcher=pace
    )
    pace.say(accuracy=done.probe[-1]["test"]["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--rounds", type=int, help="timed rounds of each entry (36 of job A and 7 of job B)")
    parser.add_argument("--only", nargs="+", choices=ENTRIES, help="these entries, beside the bare loop")
    parser.add_argument("--folder", help="where MNIST's four files lie; otherwise as mn.data.mnist looks for them")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="another checkout of manent to compare with")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        return run(chosen.run, chosen.rounds, chosen.folder, Path(chosen.start))
    found: dict[str, Any] = {}
    for job, timed in (("A", 6 if chosen.quick else 36), ("B", 1 if chosen.quick else 7)):
        names = [name for name in chosen.only or (BARS if chosen.beside else ENTRIES) if name.startswith(job)]
        if names and chosen.beside:
            found |= beside(job, names, Pattern.of(job, chosen.rounds or timed), chosen.folder, chosen.beside.resolve())
        elif names:
            found |= compare(job, names, Pattern.of(job, chosen.rounds or timed), chosen.folder)
    if chosen.beside:
        show(
            "This checkout over another",
            ("entry", "ratio", "same accuracy"),
            [(n, f["ratio"], f["equal_accuracy"]) for n, f in found.items()],
        )
        return keep(None if chosen.only or chosen.quick else "simulation_beside", found, chosen.json)
    columns = ("seconds_per_round", "ratio_to_bare", "startup_s", "peak_memory_mb", "accuracy")
    rows = []
    for name, facts in found.items():
        cells = [facts, *("" for _ in columns[1:])] if isinstance(facts, str) else [facts[column] for column in columns]
        rows.append((name, *cells, BARS.get(name, "")))
    show(f"Simulated training on {os.cpu_count()} cores", ("entry", *columns, "bar of the ratio"), rows)
    keep("simulation" if not (chosen.only or chosen.quick) else None, found, chosen.json)


if __name__ == "__main__":
    main()
