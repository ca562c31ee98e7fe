"""Hostile input: requests made up from the server's OpenAPI description, and bytes for every parser.

    python benchmarks/fuzz.py [--requests 100] [--examples 400] [--json]

Requests go over TLS to a server that has studies in each phase. They are signed by a site, carry a token of each role, or have
neither; each answer is compared with the description (schemathesis). Bytes are random, or valid ones with bits, pieces and ends
changed (hypothesis); a parser has to give a value, or the error that it declares. Expected: 0 server errors, 0 schema violations,
0 other errors. The last line with --json is one object; it is kept in benchmarks/results/fuzz.json.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from common import keep, show
from tests.network.fuzzing import Counts, Fuzzed
from tests.network.parsers import PARSERS, Parser, attempt, inputs


def tried(parser: Parser, count: int) -> dict[str, Any]:
    """Give a parser so many inputs: how many it accepted and refused, and what else happened."""
    found: dict[str, Any] = {"examples": 0, "taken": 0, "refused": 0, "errors": 0}

    @given(st.data())
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate], verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def run(data: st.DataObject) -> None:
        given = data.draw(inputs(parser))
        found["examples"] += 1
        try:
            found["taken" if attempt(parser, given) else "refused"] += 1
        except Exception as error:  # noqa: BLE001  # that there is none is what is measured
            found["errors"] += 1
            found.setdefault("first", f"{type(error).__name__}: {error} for {given[:200]!r}")

    run()
    return found


def asked(count: int) -> dict[str, dict[str, Any]]:
    """Send so many requests to each endpoint."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, Fuzzed(Path(folder)).served() as fuzzed:
        for name in track(fuzzed.operations, "Requests"):
            counts = Counts()
            fuzzed.asks(name, count, counts)
            statuses = {str(status): number for status, number in sorted(counts.statuses.items())}
            told = {"first": counts.told[0]} if counts.told else {}
            found[name] = {
                "requests": counts.requests, "server_errors": counts.server_errors,
                "schema_violations": counts.schema_violations, "statuses": statuses, **told,
            }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100, help="to each endpoint")
    parser.add_argument("--examples", type=int, default=400, help="for each parser")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.getLogger("manent.server").setLevel(logging.ERROR)
    endpoints = asked(options.requests)
    parsers = {name: tried(one, options.examples) for name, one in track(PARSERS.items(), "Parsers")}
    columns = ("requests", "server_errors", "schema_violations")
    show("Endpoints", ("endpoint", *columns, "statuses"), [
        (name, *(one[column] for column in columns), ", ".join(f"{s}: {n}" for s, n in one["statuses"].items()))
        for name, one in endpoints.items()
    ])  # fmt: skip
    show("Parsers", ("parser", "examples", "taken", "refused", "errors"), [
        (name, one["examples"], one["taken"], one["refused"], one["errors"]) for name, one in parsers.items()
    ])  # fmt: skip
    for name, one in {**endpoints, **parsers}.items():
        if "first" in one:
            print(f"{name}: {one['first']}")
    totals = {column: sum(one[column] for one in endpoints.values()) for column in columns}
    totals |= {"examples": sum(p["examples"] for p in parsers.values()), "errors": sum(p["errors"] for p in parsers.values())}
    keep("fuzz", {**totals, "endpoints": endpoints, "parsers": parsers}, options.json)
    sys.exit(any(totals[name] for name in ("server_errors", "schema_violations", "errors")))


if __name__ == "__main__":
    main()
