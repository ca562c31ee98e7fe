"""The command line, called as a person calls it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from manent.app.main import app

PROGRAM = (sys.executable, "-c", "from manent.app.main import main; main()")
STUDY = """
import numpy as np
import manent as mn

x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
data = mn.data.from_arrays(x, (x[:, 0] > 0).astype(np.int64), clients=4, test_fraction=0.25)
study = mn.Study(mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=5, batch_size=8)), rounds=3, name="small")
"""


def manent(*arguments: str | Path) -> Any:
    """The result of a command in this process: exit_code, stdout, stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def program(*arguments: str | Path) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    command: Sequence[str] = (*PROGRAM, *(str(argument) for argument in arguments))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write(folder: Path, text: str = STUDY, name: str = "study.py") -> Path:
    """A study file."""
    path = folder / name
    path.write_text(text)
    return path
