"""What every benchmark shares: a table for people, one JSON line for programs, and where results are kept."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def keep(name: str | None, values: dict[str, Any], print_json: bool) -> None:
    """Write the values to benchmarks/results/NAME.json (None: not, as for a short run), and print them last if asked."""
    if name is not None:
        RESULTS.mkdir(exist_ok=True)
        machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
        (RESULTS / f"{name}.json").write_text(json.dumps({**values, "environment": machine | commit()}, indent=2) + "\n")
    if print_json:
        print(json.dumps(values))


def commit() -> dict[str, str]:
    """The commit that is measured, "+" behind it where the source differs from it; nothing outside a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return {"commit": head + "+" * bool(_git("status", "--porcelain", "--", "src", "benchmarks/*.py"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _git(*command: str) -> str:
    return subprocess.run(["git", *command], cwd=RESULTS.parent.parent, check=True, capture_output=True, text=True).stdout.strip()
