"""The server optimiser of CONTRIBUTING.md works as printed, and the files it names are there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import manent as mn

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture
def fedlion(tmp_path, monkeypatch):
    (source,) = re.findall(r"<!-- tested -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "fedlion.py").write_text(source)
    spec = importlib.util.spec_from_file_location("fedlion", tmp_path / "fedlion.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fedlion", module)
    spec.loader.exec_module(module)
    return module.FedLion


def test_the_optimiser_as_printed_learns(fedlion):
    data = mn.data.heart_disease()
    local = mn.LocalSGD(lr=0.01, steps=5, batch_size=8)
    study = mn.Study(fedlion(mn.LogisticModel(features=13), local, server_lr=0.02), rounds=10)
    run = mn.simulate(study, data, workers=0)
    assert run.series("loss", "train")[1][-1] < run.series("loss", "train")[1][0]
    again = mn.simulate(study, data, workers=0)
    assert run.state["m"].tobytes() == again.state["m"].tobytes()
    assert np.any(run.state["m"])
    with pytest.raises(mn.InvalidInput, match="beta2"):
        fedlion(mn.LogisticModel(features=13), local, beta2=1)


def test_the_files_named_are_there():
    for folder, files in {
        "src/manent/algorithms": ["fedprox.py", "fednova.py", "scaffold.py"],
        "": [name for name in re.findall(r"`((?:src|tests)/[a-z_/]+\.py)`", TEXT) if "fedlion" not in name],
        "src/manent": re.findall(r"`((?:core|layers|summation|models|analytics)/[a-z_/]+\.py)`", TEXT),
    }.items():
        assert files
        for file in files:
            assert (ROOT / folder / file).exists(), file
            assert file in TEXT


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_every_path_that_a_page_names_is_there(page):
    """Written from the root of the repository or of the package; a folder ends with a slash."""
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/[a-z_]+\.py|/))`", (ROOT / page).read_text())
    places = (ROOT, ROOT / "src" / "manent", ROOT / "src" / "manent" / "network", ROOT / "src" / "manent" / "app")
    gone = [
        path for path in named if path != "src/manent/algorithms/fedlion.py" and not any((at / path).exists() for at in places)
    ]
    assert gone == []
    assert named or page not in ("docs/architecture.md", "CONTRIBUTING.md", "SECURITY.md")


def test_the_make_targets_named_are_there():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    documents = TEXT + (ROOT / "README.md").read_text()
    assert set(re.findall(r"\bmake ([a-z]+)", documents)) - {"a"} <= set(targets)
