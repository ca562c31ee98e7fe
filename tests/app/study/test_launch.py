"""A run that is stopped, by Ctrl-C or kill -9, ends with exactly what it would have been."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.app.program import manent, program, write

# SCAFFOLD's clients remember, and some drop out: all of it must survive.
SLOW = """
import numpy as np
import manent as mn

x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
data = mn.data.from_arrays(x, (x[:, 0] > 0.3).astype(np.int64), clients=8, test_fraction=0.25)
model, local = mn.LogisticModel(5), mn.LocalSGD(lr=0.05, steps=40, batch_size=4)
study = mn.Study(mn.SCAFFOLD(model, local, evaluation=mn.Evaluation(every=3)), rounds=10, cohort=mn.Cohort(size=5), name="slow")
conditions = mn.Conditions(drop_before_upload=0.2, stragglers=0.3)
"""
OPTIONS = ("--set", "rounds=90", "--seed", 11, "--workers", 2, "--evaluate-every", 2)


def rows(folder: Path, log: str) -> list[dict[str, Any]]:
    """The rows of a log, without what a clock said."""
    lines = (folder / log).read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert manent("run", write(folder, SLOW), *OPTIONS, "--folder", folder / "run", "--quiet").exit_code == 0
    return folder / "run"


def stopped(tmp_path: Path, how: signal.Signals) -> tuple[Path, int, str]:
    """A run stopped after some rounds: its folder, exit code and last words."""
    folder, path = tmp_path / "run", write(tmp_path, SLOW)
    process = program("run", path, *OPTIONS, "--folder", folder)
    until = time.monotonic() + 60
    while not (folder / "history.jsonl").exists() or len((folder / "history.jsonl").read_bytes().splitlines()) < 12:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    os.kill(process.pid, how)
    _, words = process.communicate(timeout=60)
    path.write_text("raise RuntimeError('the study file has changed since')")
    return folder, process.returncode, words


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_ends_as_if_uninterrupted(tmp_path: Path, whole: Path, how: signal.Signals) -> None:
    folder, code, words = stopped(tmp_path, how)
    assert not (folder / "model.safetensors").exists(), "the run ended before it was stopped"
    if how == signal.SIGINT:
        assert code == 130
        assert f"manent run --resume {folder}" in words.replace("\n", "")
        assert "Traceback" not in words
    done = len(rows(folder, "history.jsonl"))
    assert manent("run", "--resume", folder, "--quiet").exit_code == 0
    assert len(rows(folder, "history.jsonl")) > done
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    for log in ("history.jsonl", "probe.jsonl"):
        assert rows(folder, log) == rows(whole, log)


def test_a_run_stopped_before_its_first_round_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert manent("run", write(tmp_path, SLOW), "--workers", 0, "--folder", folder, "--quiet").exit_code == 0
    model = (folder / "model.safetensors").read_bytes()
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("command.json", "study.py"):
            path.unlink()
    assert manent("run", "--resume", folder, "--workers", 0, "--quiet").exit_code == 0
    assert (folder / "model.safetensors").read_bytes() == model
