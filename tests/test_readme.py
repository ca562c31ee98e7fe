"""The README's example runs as it stands, and its names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import manent as mn
from tests.app.program import STUDY, manent, write

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"<!-- tested -->\n```python\n(.*?)```", README, re.DOTALL)
    assert len(block.splitlines()) <= 25
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Who sees what" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "run.png"}


def test_the_private_example_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"<!-- tested: private -->\n```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "epsilon 1, delta 0.001" in done.stdout


def test_the_secure_example_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"<!-- tested: secure -->\n```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "a server that lies" in done.stdout


def test_the_algorithms_named_exist() -> None:
    (row,) = re.findall(r"\| \*\*Training\*\* \| ([^;]*);", README)
    assert all(hasattr(mn, name) for name in row.split(", "))


def test_the_commands_named_exist(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    names = {line.split()[1] for block in blocks for line in block.splitlines() if line.startswith("manent ")}
    assert names >= {"check", "run", "plot", "data"}
    for name in names:
        assert manent(name, "--help").exit_code == 0, name
    assert manent("check", write(tmp_path, STUDY), "--set", "algorithm.local.lr=0.02").exit_code == 0


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
