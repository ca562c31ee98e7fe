"""benchmarks/results/secagg.md, from benchmarks/results/secagg.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEAD = """# Secure aggregation

Made by `python benchmarks/secagg.py`; what the columns mean stands at its top. Real clients in processes of their own; the server
alone in another, given their messages one after another; drop-outs after Shares and before Upload; the active adversary, a tenth
of the clients corrupt. Every sum was compared with that of the survivors' vectors, and was the same bit for bit.
"""
RECALLED = """
The last column is the published server, single-threaded: Bonawitz et al. (CCS 2017), complete graph, vectors of the same size,
on their machine and against the curious adversary. *These figures are recalled, not compared with the paper.* k-regular at 30%
needs a larger degree: it is chosen for that many drop-outs.
"""


def report(found: dict[str, Any]) -> str:
    """Markdown, of the sections that are there."""
    parts = [HEAD]
    singles = [values for name, values in found.items() if name.startswith("round")]
    if singles:
        parts += ["## One round", table(ROUND, [round_row(values) for values in singles])]
        parts += [
            "### A client, ms of processor time",
            clients(singles),
            "### The server's wall time, s, by phase",
            phases(singles),
        ]
        parts += ["### Bytes of a client", sent(singles)]
    if "bonawitz" in found:
        rows = [(*round_row(values), values["published_s"] or "") for values in found["bonawitz"]]
        parts += ["## n = 1,000, d = 100,000", table((*ROUND, "published, s"), rows), RECALLED]
    if "large" in found:
        parts += ["## n = 10,000, d = 10,000, k-regular", table(ROUND, [round_row(values) for values in found["large"]])]
    if "flower" in found:
        parts += ["## Beside Flower 1.41's SecAgg+, n = 100, d = 1,000,000, complete graph, 10% dropped", peer(found["flower"])]
    if "expansion" in found:
        parts += ["## Bytes over the clear 16-bit vector, n = 1,024, 10% may drop", sizes(found["expansion"]["rows"])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


COUNTS = ("n", "d", "suite", "k", "t", "dropped", "threads")
ROUND = (*COUNTS, "server, s", "CPU, s", "floor, s", "ratio", "by CPU", "memory, MB", "client, ms", "round, s")


def round_row(values: dict[str, Any]) -> tuple[object, ...]:
    about = (f"{values['clients']:,}", f"{values['dim']:,}", values["suite"], values["degree"], values["threshold"])
    times = [f"{values[key]:.2f}" for key in ("server_s", "server_cpu_s", "floor_s", "ratio_to_floor")]
    times.append(f"{values['server_cpu_s'] / values['floor_s']:.2f}")
    memory, client = f"{values['peak_memory_mb']:.0f}", f"{sum(values['client_ms'].values()):.0f}"
    return (*about, f"{values['dropout']:.0%}", values["threads"], *times, memory, client, f"{values['round_s']:.0f}")


def clients(singles: Sequence[dict[str, Any]]) -> str:
    steps = list(singles[0]["client_ms"])
    return table(["suite", *steps], [(one["suite"], *(f"{one['client_ms'][step]:.2f}" for step in steps)) for one in singles])


def phases(singles: Sequence[dict[str, Any]]) -> str:
    names = list(singles[0]["server_by_phase_s"])
    rows = [(one["suite"], one["threads"], *(f"{one['server_by_phase_s'][name]:.3f}" for name in names)) for one in singles]
    return table(["suite", "threads", *names], rows)


def sent(singles: Sequence[dict[str, Any]]) -> str:
    rows: list[tuple[object, ...]] = []
    for one in {one["suite"]: one for one in singles}.values():
        for way in ("up", "down"):
            rows.append((one["suite"], way, *(f"{count:,}" for count in one[f"bytes_{way}"].values())))
    return table(["suite", "", *singles[0]["bytes_up"]], rows)


def peer(values: dict[str, Any]) -> str:
    rows = [
        (f"manent, {suite}", f"{values['server_cpu_s'][suite]:.2f}", f"{values['times_less'][suite]:.0f}")
        for suite in values["times_less"]
    ]
    theirs = values["flower"]
    rows.append(
        (f"Flower (one owner of secrets in {theirs['parts']} measured, and multiplied)", f"{theirs['server_cpu_s']:.1f}", "1")
    )
    return table(["server", "CPU, s", "times less"], rows)


def sizes(rows: Sequence[dict[str, Any]]) -> str:
    shown = [(f"{r['dim']:,}", r["graph"], r["degree"], r["suite"], f"{r['up']:.3f}", f"{r['both_ways']:.3f}") for r in rows]
    return table(["d", "graph", "k", "suite", "sent", "sent and received"], shown)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])
