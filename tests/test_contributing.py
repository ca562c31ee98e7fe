"""The server optimiser and the layer of CONTRIBUTING.md work as printed, and the files it names are there."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import manent as mn
from manent.crypto import SystemRandom
from tests.conformance import test_layers as laws
from tests.privacy.studies import stack

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PRINTED = ("src/manent/algorithms/fedlion.py", "src/manent/layers/reflect.py")


def printed(name, tmp_path, monkeypatch):
    """The module that defines a class, as printed."""
    sources = re.findall(r"<!-- tested -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    (source,) = (source for source in sources if f"class {name}" in source)
    module_name = name.lower()
    (tmp_path / f"{module_name}.py").write_text(source)
    spec = importlib.util.spec_from_file_location(module_name, tmp_path / f"{module_name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module_name, module)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.fixture
def fedlion(tmp_path, monkeypatch):
    return printed("FedLion", tmp_path, monkeypatch)


@pytest.fixture
def reflect(tmp_path, monkeypatch):
    return printed("Reflect", tmp_path, monkeypatch)


def test_the_optimiser_as_printed_learns(fedlion):
    data = mn.data.heart_disease()
    local = mn.LocalSGD(lr=0.01, steps=5, batch_size=8)
    study = mn.Study(fedlion(mn.LogisticModel(features=13), local, server_lr=0.02), rounds=10)
    run = mn.simulate(study, data, workers=0)
    assert run.series("loss", "train")[1][-1] < run.series("loss", "train")[1][0]
    again = mn.simulate(study, data, workers=0)
    assert run.state["m"].tobytes() == again.state["m"].tobytes()
    assert np.any(run.state["m"])


@pytest.mark.parametrize(
    "wrong",
    [{"beta2": 1}, {"beta1": "x"}, {"beta1": True}, {"weighting": "rows"}, {"server_lr": None}, {"evaluation": 5}],
    ids=str,
)
def test_the_optimiser_as_printed_refuses_arguments_of_a_wrong_kind(fedlion, wrong):
    (name,) = wrong
    with pytest.raises(mn.InvalidInput, match=f"FedLion expects .*{name}.*; found"):
        fedlion(mn.LogisticModel(features=13), mn.LocalSGD(lr=0.01, steps=5), **wrong)


LAWS = [name for name in vars(laws) if name.startswith("test_") and "layers" in inspect.signature(vars(laws)[name]).parameters]


@pytest.mark.parametrize("before", [True, False], ids=["behind a clip", "alone"])
@pytest.mark.parametrize("law", LAWS)
def test_the_layer_as_printed_keeps_the_laws(reflect, law, before):
    assert len(LAWS) >= 8
    vars(laws)[law]([mn.Clip(1.0), reflect()] if before else [reflect()])


def test_the_layer_as_printed_may_stand_among_those_with_a_place(reflect, monkeypatch):
    monkeypatch.setattr(laws, "LAYERS", {"Reflect": [mn.Clip(1.0), reflect(), mn.Discretize()]})
    laws.test_every_layer_declares_its_place_and_little_else()


def test_the_layer_as_printed_restates_bounds_that_hold(reflect):
    form = stack([mn.Clip(1.0, order=1), reflect()]).form
    assert (form.l1, form.l2, form.largest) == (3, 1, 3)
    worst = stack([mn.Clip(1.0, order=1), reflect()], 1000)
    spike = np.zeros((1, 1000))
    spike[0, 0] = 1
    sent = worst.client(spike, {}, SystemRandom())
    assert 2.9 < np.abs(sent).sum() <= 3
    assert np.linalg.norm(sent) == pytest.approx(1)


def test_a_study_with_the_layer_as_printed_is_private_and_learns_the_same(reflect):
    data, model = mn.data.heart_disease(), mn.LogisticModel(features=13)
    algorithm = mn.FedAvg(model, mn.LocalSGD(lr=0.01, steps=5, batch_size=8), weighting="equal")
    bare, layered = (mn.simulate(mn.Study(algorithm, 3, layers=layers), data, workers=0) for layers in ([], [reflect()]))
    np.testing.assert_allclose(layered.state["model"], bare.state["model"], atol=1e-6)
    stated = mn.check(mn.Study(algorithm, 3, layers=[mn.Clip(1.0), reflect(), mn.CentralNoise(1.0)]), data)
    assert stated.protection.noise_multiplier == 1
    with pytest.raises(mn.Refused, match="Reflect stands behind CentralNoise"):
        mn.check(mn.Study(algorithm, 3, layers=[mn.Clip(1.0), mn.CentralNoise(1.0), reflect()]), data)


def test_the_files_named_are_there():
    for folder, files in {
        "src/manent/algorithms": ["fedprox.py", "fednova.py", "scaffold.py"],
        "": [name for name in re.findall(r"`((?:src|tests)/[a-z_/]+\.py)`", TEXT) if name not in PRINTED],
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
    gone = [path for path in named if path not in PRINTED and not any((at / path).exists() for at in places)]
    assert gone == []
    assert named or page not in ("docs/architecture.md", "CONTRIBUTING.md", "SECURITY.md")


def test_the_make_targets_named_are_there():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    documents = TEXT + (ROOT / "README.md").read_text()
    assert set(re.findall(r"\bmake ([a-z]+)", documents)) - {"a"} <= set(targets)
