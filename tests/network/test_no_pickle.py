"""A federation trains a network of torch to its end while everything that could run what it reads raises, in every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from manent.network.sandbox.child import isolation_here
from manent.network.server import documents
from manent.network.site.joining import QUICK
from manent.network.trust.identity import Identity
from manent.network.wire.bundle import Bundle
from manent.storage import open_store
from manent.storage.blobs import Blobs
from tests.network import processes
from tests.network.processes import Federation, until

pytest.importorskip("torch", reason="torch is not installed")

GUARD = """
import builtins, os, pickle, sys, traceback
import _pickle

def refuse(what):
    def raises(*arguments, **named):
        told = "".join(traceback.format_stack()[-6:])
        os.write(2, f"UNSAFE {what}\\n{told}\\n".encode())
        raise RuntimeError(f"{what} was called")
    return raises

for module, names in ((pickle, ("load", "loads", "_load", "_loads")), (_pickle, ("load", "loads"))):
    for name in names:
        setattr(module, name, refuse(f"{module.__name__}.{name}"))
for module, name in ((_pickle, "Unpickler"), (pickle, "Unpickler"), (pickle, "_Unpickler")):  # of which others make subclasses
    made = type(name, (getattr(module, name),), {"__init__": refuse(name), "load": refuse(name)})
    setattr(module, name, made)
evaluate = pickle.evaluate = getattr(pickle, "evaluate", builtins.eval)  # where this file is loaded into a guarded process

def guarded(*arguments):
    caller = sys._getframe(1).f_globals.get("__name__", "")
    if caller.split(".")[0] in ("manent", "study_file", "__main__", "load", "layers"):
        refuse("eval")()
    if len(arguments) == 1:
        frame = sys._getframe(1)
        arguments = (*arguments, frame.f_globals, frame.f_locals)
    return evaluate(*arguments)

builtins.eval = guarded
try:
    import yaml
except ImportError:
    yaml = None
for name in ("load", "load_all", "unsafe_load", "full_load") if yaml else ():
    setattr(yaml, name, refuse(f"yaml.{name}"))
"""
TORCH = """
import torch

def only_weights(*arguments, weights_only=None, **named):
    refuse("torch.load")() if weights_only is not True else None
    return loaded(*arguments, weights_only=True, **named)

loaded = pickle.loaded = getattr(pickle, "loaded", torch.load)
torch.load = only_weights
"""
STUDY = (
    GUARD
    + TORCH
    + """
import manent as mn


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(13, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))

    def forward(self, x):
        return self.inner(x)[:, 0]


torch.manual_seed(0)
data = mn.data.heart_disease()
study = mn.Study(
    mn.FedAvg(mn.TorchModel(Net(), "binary_cross_entropy"), mn.LocalSGD(lr=0.05, steps=5, batch_size=4)),
    rounds=1,
    cohort=mn.Cohort(minimum=4),
    summation=mn.SecAgg(minimum_cohort=3, dropped=0.2),
    name="torch",
)
"""
)
ISOLATED = isolation_here()


def code_hash(folder: Path) -> str:
    """Of the study that a server has queued."""
    store, blobs = open_store(folder / "server.db"), Blobs(folder / "blobs")
    with store.snapshot() as view:
        (study,) = documents.studies(view)
    return Bundle.read(b"".join(blobs.read(study.bundle))).code_hash


@pytest.fixture
def guarded(monkeypatch) -> None:
    """Every process of a federation begins with the guard. What loads the study, and so torch, gets torch's part with it."""
    main = f"{GUARD}\nfrom manent.app.main import main; main()"
    monkeypatch.setattr(processes, "PROGRAM", (sys.executable, "-c", main))


ACTS = """
acts = [
    lambda: pickle.loads(b"N."), lambda: pickle.load(open(os.devnull, "rb")), lambda: _pickle.loads(b"N."),
    lambda: pickle.Unpickler(None), lambda: eval("1"), lambda: torch.load("nothing"),
    lambda: torch.load("nothing", weights_only=False), lambda: yaml.load("a: 1", None) if yaml else refuse("yaml.load")(),
]
for act in acts:
    try:
        act()
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.slow
def test_the_guard_raises():
    done = subprocess.run(
        [sys.executable, "-c", GUARD + GUARD + TORCH + TORCH + ACTS], capture_output=True, text=True, check=True
    )
    assert done.stdout.count(" was called") == done.stderr.count("UNSAFE") == 8, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not ISOLATED.complete, reason=f"this system cannot isolate: {ISOLATED}")
def test_a_network_of_torch_is_trained_without_a_pickle(tmp_path, guarded):
    with Federation(tmp_path) as federation:
        federation.study.write_text(STUDY)
        federation.serve()
        # torch is loaded first, and the study queued before the invitation is printed
        until(lambda: "manent join" in (tmp_path / "server.log").read_text(), 120, federation.logs)
        assert federation.tokens
        policy = QUICK.format(server=Identity.load(tmp_path / "srv" / "identity.key").public_hex, allowed='"SecAgg"', data="data")
        for index in range(federation.sites):
            (tmp_path / f"site{index}").mkdir()
            listed = policy.replace('rule = "none"', f'rule = "listed"\nhashes = ["{code_hash(tmp_path / "srv")}"]')
            (tmp_path / f"site{index}" / "policy.toml").write_text(listed)
            loader = tmp_path / f"load{index}.py"
            loader.write_text(GUARD + loader.read_text())
            federation.join(index)
        found = federation.result(180)
        assert np.isfinite(found["model"]).all()
        assert np.abs(found["model"]).max() > 0
        for log in tmp_path.glob("*.log"):
            assert "UNSAFE" not in log.read_text(), log.read_text()[-3000:]
        logs = [(tmp_path / f"site{index}.log").read_text() for index in range(federation.sites)]
        assert all("shut in, by" in text for text in logs), federation.logs()
