"""The ledger under load and under kill -9.

Concurrent: several processes together ask for more than the budget holds. Nothing may be overspent, and nothing lost.
Kills: a process is killed at random points between reserving and committing. What it had reserved must count.

    python benchmarks/ledger.py [--json] [--reservations 1000] [--processes 4] [--kills 200]

The last line is one JSON object; the same is kept in benchmarks/results/ledger.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from manent.accounting import Budget, Gaussian, Ledger, calibrate, epsilon
from manent.core.errors import BudgetSpent, InvalidInput
from manent.crypto import SystemRandom
from manent.storage import open_store

BUDGET = Budget(8.0, 1e-5, "client", "add_or_remove")
DATA = "benchmark"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--reservations", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the random points")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "ledger.json", help="'' for none")
    given = parser.parse_args()
    found = {
        **concurrent(given.reservations, given.processes),
        **kills(given.kills, given.seed),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    if str(given.output) not in ("", "."):
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(found, indent=2) + "\n")
    if not given.json:
        print(table(found))
    print(json.dumps(found))
    sys.exit(bool(found["overspent"] or found["undercounted"] or not found["altered_row_found"]))


def concurrent(asked: int, processes: int) -> dict[str, Any]:
    """Ask `asked` times, from several processes at once, for releases of which the budget holds three fifths."""
    holds = asked * 3 // 5
    z = calibrate(BUDGET.epsilon, BUDGET.delta, lambda z: Gaussian(z / holds**0.5), BUDGET.neighboring_relation, tolerance=1e-9)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        ledger = Ledger(open_store(path))
        ledger.open(DATA, BUDGET)
        shares = [asked // processes + (i < asked % processes) for i in range(processes)]
        context = multiprocessing.get_context("spawn")
        began = time.perf_counter()
        with context.Pool(processes) as pool:
            answers = pool.starmap(_ask, [(path, share, z) for share in shares])
        seconds = time.perf_counter() - began
        granted, refused, waits = sum(a[0] for a in answers), sum(a[1] for a in answers), sorted(w for a in answers for w in a[2])
        rows = ledger.verify()
        account = ledger.account(DATA)
        really = epsilon(Gaussian(z / max(granted, 1) ** 0.5), BUDGET.delta, BUDGET.neighboring_relation).epsilon
        return {
            "concurrent": granted + refused,
            "processes": processes,
            "granted": granted,
            "expected": holds,
            "overspent": max(0, granted - holds) + int(really > BUDGET.epsilon) + max(0, granted - (rows - 1)),
            "epsilon": really,
            "ledger_epsilon": account.spent + account.reserved,
            "budget": BUDGET.epsilon,
            "reservations_per_second": round((granted + refused) / seconds, 1),
            "median_ms": round(1000 * waits[len(waits) // 2], 2),
            "slowest_ms": round(1000 * waits[-1], 1),
            "altered_row_found": _altered(path),
        }


def _ask(path: Path, times: int, z: float) -> tuple[int, int, list[float]]:
    ledger, source = Ledger(open_store(path, timeout=300)), SystemRandom()
    granted, refused, waits = 0, 0, []
    for _ in range(times):
        began = time.perf_counter()
        try:
            _reserve(ledger, source, z)
            granted += 1
        except BudgetSpent:
            refused += 1
        waits.append(time.perf_counter() - began)
    return granted, refused, waits


def _reserve(ledger: Ledger, source: SystemRandom, z: float) -> Any:
    return ledger.reserve(
        DATA,
        Gaussian(z),
        privacy_unit=BUDGET.privacy_unit,
        neighboring_relation=BUDGET.neighboring_relation,
        study="0" * 64,
        random=source,
    )


def _altered(path: Path) -> bool:
    """Whether one byte of one row, changed by hand, is found."""
    import sqlite3

    from manent.core.errors import ProtocolAbort

    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER logs_keep_content")
    connection.execute("UPDATE logs SET row = replace(row, 'manent', 'Manent') WHERE sequence = 2")
    connection.commit()
    connection.close()
    try:
        Ledger(open_store(path)).verify()
    except ProtocolAbort:
        return True
    return False


def kills(times: int, seed: int) -> dict[str, Any]:
    """Kill a process that reserves and commits, each time at a random moment, and compare with what it had said.

    It says so after each reservation, so that one which it was killed while making may be in the ledger, and one that it spoke
    of must be. Data are touched only after it spoke: a reservation missing from the ledger then would be spending uncounted.
    """
    draw = random.Random(seed)
    undercounted = between = while_reserving = 0
    spoken: set[str] = set()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        store = open_store(path)
        Ledger(store).open(DATA, Budget(1e6, BUDGET.delta, BUDGET.privacy_unit, BUDGET.neighboring_relation))
        store.close()
        began = time.perf_counter()
        for _ in range(times):
            parent, child = context.Pipe()
            process = context.Process(target=_work, args=(path, child))
            process.start()
            child.close()
            said = _until_killed(process, parent, draw)
            reserved = {identity for word, identity in said if word == "reserved"}
            committed = {identity for word, identity in said if word == "committed"}
            spoken |= reserved
            store = open_store(path)
            ledger = Ledger(store)
            runs, states = ledger.account(DATA).runs, {identity: _state(ledger, identity) for identity in reserved}
            between += sum(state == "reserved" for state in states.values())
            undercounted += sum(state not in ("reserved", "spent") for state in states.values())
            undercounted += sum(states[identity] != "spent" for identity in committed) + max(0, len(spoken) - runs)
            while_reserving = max(0, runs - len(spoken))
            ledger.verify()
            # Closed, because the next process is a fork of this one.
            store.close()
        totals = Ledger(open_store(path)).account(DATA)
        expected = epsilon(Gaussian(20.0 / totals.runs**0.5), BUDGET.delta, BUDGET.neighboring_relation).epsilon
        undercounted += int(totals.spent + totals.reserved < expected * (1 - 1e-6))
        return {
            "kills": times,
            "undercounted": undercounted,
            "left_reserved": between,
            "killed_before_it_was_said": while_reserving,
            "reservations_under_kills": totals.runs,
            "kill_seconds": round(time.perf_counter() - began, 1),
        }


def _state(ledger: Ledger, identity: str) -> str:
    try:
        return ledger.find(identity)[1]
    except InvalidInput:
        return "missing"


def _work(path: Path, out: Connection) -> None:
    ledger, source = Ledger(open_store(path)), SystemRandom()
    while True:
        reservation = _reserve(ledger, source, 20.0)
        out.send(("reserved", reservation.id))
        # Here data would be touched and a sum be formed: the longest part of a round.
        time.sleep(0.003)
        ledger.commit(reservation, "0" * 64)
        out.send(("committed", reservation.id))


def _until_killed(process: Any, words: Connection, draw: random.Random) -> list[tuple[str, str]]:
    said = [words.recv()]
    if draw.random() < 0.5:
        # Half of the time certainly between a reservation and its commit: a random moment after it has spoken.
        while said[-1][0] != "reserved" or draw.random() < 0.5:
            said.append(words.recv())
        time.sleep(draw.uniform(0, 0.003))
    else:
        time.sleep(draw.uniform(0, 0.02))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    try:
        while True:
            said.append(words.recv())
    except (EOFError, OSError):
        return said


def table(found: dict[str, Any]) -> str:
    """The same as a table for people."""
    lines = [
        f"{found['concurrent']} reservations by {found['processes']} processes against one budget (epsilon {found['budget']:g})",
        f"  granted {found['granted']} of the {found['expected']} that fit, epsilon {found['epsilon']:.6f}",
        f"  overspent {found['overspent']}",
        f"  {found['reservations_per_second']} a second; median {found['median_ms']} ms, slowest {found['slowest_ms']} ms",
        f"  a row altered by hand is found: {'yes' if found['altered_row_found'] else 'NO'}",
        f"{found['kills']} kills of a process that reserves and commits, in {found['kill_seconds']} s",
        f"  {found['reservations_under_kills']} reservations; {found['left_reserved']} killed before their commit, and counted;",
        f"  {found['killed_before_it_was_said']} in the ledger though the process died before it could say so",
        f"  undercounted {found['undercounted']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
