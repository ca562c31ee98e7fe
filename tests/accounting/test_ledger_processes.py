"""Several processes on one ledger, and processes killed in the middle: a short form of benchmarks/ledger.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "ledger.py"


def test_nothing_is_overspent_and_nothing_undercounted():
    asked = ["--reservations", "90", "--processes", "3", "--kills", "12", "--output", ""]
    done = subprocess.run([sys.executable, str(BENCHMARK), *asked], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "overspent 0" in done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["concurrent"], found["granted"], found["overspent"]) == (90, 54, 0)
    assert (found["kills"], found["undercounted"]) == (12, 0)
    assert found["left_reserved"] >= 3
    assert found["altered_row_found"]
