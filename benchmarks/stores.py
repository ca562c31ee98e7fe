"""Commits per second of the durable stores. Each commit is on the disk before it returns.

    python benchmarks/stores.py [--seconds 4] [--json]

A commit is what a server stores for a site's message: a row of 200 bytes at the end of a log, and a document of 500 bytes
replaced. SQLite is a file in WAL mode with full synchronisation; PostgreSQL is a server on this machine, reached by a socket,
with fsync, full_page_writes and synchronous_commit on (`settings` shows what the server reports of them). First one writer, then
four processes that write at once: writers wait for each other, as a store promises.

`share_of_fsync` is the rate of one writer over the rate at which this disk takes writes of 4 KiB with an fsync each, measured
before and after. The result goes to benchmarks/results/stores.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import keep, show

from manent.storage import open_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests import postgres

SAID = ("fsync", "full_page_writes", "synchronous_commit", "wal_sync_method", "server_version")


def fsyncs(seconds: float, folder: Path) -> float:
    """How many writes of 4 KiB this disk takes in a second, each followed by an fsync."""
    count, end = 0, time.monotonic() + seconds
    with (folder / "fsync").open("wb", buffering=0) as file:
        while time.monotonic() < end:
            file.write(bytes(4096))
            os.fsync(file.fileno())
            count += 1
    return count / seconds


def write(place: str, name: int, seconds: float, start: Any, found: Any) -> None:
    store, waits = open_store(place), []
    start.wait(60)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        with store.transaction() as transaction:
            transaction.append(f"log {name}", bytes(200))
            transaction.put(f"document {name}", bytes(500))
        waits.append(time.perf_counter() - began)
    found.put(waits)


def commits(place: str, writers: int, seconds: float) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(writers), context.Queue()
    processes = [context.Process(target=write, args=(place, name, seconds, start, found)) for name in range(writers)]
    for process in processes:
        process.start()
    waits = sorted(wait for _ in processes for wait in found.get(timeout=120))
    for process in processes:
        process.join()
    return {
        "commits_per_second": round(len(waits) / seconds, 1),
        "median_ms": round(1000 * median(waits), 3),
        "p99_ms": round(1000 * waits[int(0.99 * len(waits))], 3),
    }


def both(place: str, seconds: float) -> dict[str, dict[str, float]]:
    return {"one_writer": commits(place, 1, seconds), "four_writers": commits(place, 4, seconds)}


def in_postgres(seconds: float) -> dict[str, Any]:
    try:
        with postgres.running("-c fsync=on -c full_page_writes=on -c synchronous_commit=on") as server:
            import psycopg

            url = server.database()
            with psycopg.connect(url) as connection:
                said = {name: (connection.execute(f"SHOW {name}").fetchone() or ("",))[0] for name in SAID}
            return {**both(url, seconds), "settings": said}
    except postgres.Absent as reason:
        return {"skipped": str(reason)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        before = fsyncs(chosen.seconds / 2, folder)
        found = {"SQLite": both(str(folder / "store.db"), chosen.seconds), "PostgreSQL": in_postgres(chosen.seconds)}
        floor = (before + fsyncs(chosen.seconds / 2, folder)) / 2
    for of in found.values():
        if "one_writer" in of:
            of["share_of_fsync"] = round(of["one_writer"]["commits_per_second"] / floor, 3)
    values: dict[str, Any] = {"fsyncs_per_second": round(floor, 1), **found, "seconds": chosen.seconds, "cores": os.cpu_count()}
    keep("stores", values, chosen.json)
    if not chosen.json:
        rows = [
            (f"{name}, {writers}", *of[writers].values())
            for name, of in found.items()
            for writers in ("one_writer", "four_writers")
            if writers in of
        ]
        show(f"durable stores; {floor:.0f} fsyncs a second", ("store", "commits/s", "median ms", "p99 ms"), rows)


if __name__ == "__main__":
    main()
