"""Every example runs, as a script and as a study file."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.app.program import program

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
SAYS = {
    "hospitals.py": ["All hospitals' test patients together: accuracy 0.7", "Switzerland"],
    "mean_age.py": ["Mean age 53.1 years, of 740 patients", "asymptomatic"],
    "equinox_digits.py": ["Accuracy on the central test set: 0.", "The first ten test digits read"],
    "flax_digits.py": ["SCAFFOLD: accuracy 0.", "FedAvg: accuracy 0."],
    "digits_torch.py": ["FedProx, slow clients count: accuracy 0.", "Drawn into"],
    "private_digits.py": ["With epsilon 4 for each client: accuracy 0.", "Refused before anything ran", "epsilon 4 if deployed"],
    "secure_phones.py": ["Accuracy 0.", "a server that lies", "27 of them rebuild one", "epsilon 8 if deployed"],
    "sklearn_mlp.py": ["Accuracy on the central test set: 0.9", "Loaded from"],
}

EXTRAS = {"equinox_digits.py": "equinox", "flax_digits.py": "flax"}  # packages without which an example says so and ends


def test_every_example_is_known() -> None:
    assert {path.name for path in EXAMPLES} == set(SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_as_a_script(tmp_path: Path, path: Path) -> None:
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if path.name in EXTRAS and find_spec(EXTRAS[path.name]) is None:
        assert "Skipped" in done.stdout
        pytest.skip(f"{EXTRAS[path.name]} is not installed")
    for part in SAYS[path.name]:
        assert part in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_as_a_study_file(tmp_path: Path, path: Path) -> None:
    if path.name in EXTRAS:
        pytest.importorskip(EXTRAS[path.name])
    fewer = () if path.name == "mean_age.py" else ("--set", "rounds=2")
    process = program("run", path, "--folder", tmp_path / "run", "--seed", 1, *fewer)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Who saw what" in out
    assert (tmp_path / "run" / "history.jsonl").exists()
