"""constraints*.txt: what may be installed, file by file; and that `make setup` installs nothing else."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
EVERYTHING, FROM_PYPI, FOR_CPUS = "constraints.txt", "constraints-torch.txt", "constraints-torch-cpu.txt"


def locked(file: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Pin and hashes by name. Fails for a line of any other form: an option, an address, a second pin."""
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for line in (ROOT / file).read_text().replace("\\\n", " ").splitlines():
        if line.startswith("#"):
            continue
        text, *hashes = line.split("--hash=sha256:")
        pin, hashes = Requirement(text.strip()), [each.strip() for each in hashes]
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), line[:80]
        assert pin.url is None
        assert hashes, line[:80]
        assert all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes), line[:80]
        assert pin.name not in found, pin.name
        found[canonicalize_name(pin.name)] = pin, hashes
    return found


def asked() -> list[Requirement]:
    """Everything that pyproject.toml asks for, in any extra, and to build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [project["build-system"]["requires"], project["project"]["dependencies"]]
    lists += project["project"]["optional-dependencies"].values()
    return [found for texts in lists for found in map(Requirement, texts) if found.name != "manent"]


@pytest.mark.parametrize("file", [EVERYTHING, FROM_PYPI, FOR_CPUS])
def test_every_pin_is_of_one_version_and_has_hashes(file):
    assert locked(file)


def test_what_the_project_asks_for_is_locked_within_its_bounds():
    pins = locked(EVERYTHING) | locked(FROM_PYPI)
    for wanted in asked():
        pin, _ = pins[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(str(pin.specifier).removeprefix("==")), f"{wanted}: {pin}"


def test_what_the_locked_packages_ask_for_is_locked_too():
    """From pyproject.toml on, as far as it is installed here; each with the extras by which it was asked for."""
    names = {*locked(EVERYTHING), *locked(FROM_PYPI)}
    todo, seen = asked(), set()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        assert name in names, wanted
        for extra in {"", *wanted.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                further = [Requirement(text) for text in distribution(name).requires or ()]
            except PackageNotFoundError:
                continue
            todo += [each for each in further if each.marker is None or each.marker.evaluate({"extra": extra})]
    assert len(seen) > 100


def test_both_builds_of_torch_are_locked_in_one_version():
    (pypi, theirs), (cpu, own) = locked(FROM_PYPI)["torch"], locked(FOR_CPUS)["torch"]
    assert str(cpu.specifier) == f"{pypi.specifier}+cpu"
    assert f"TORCH := {pypi}\n" in MAKEFILE
    assert "torch" not in locked(EVERYTHING)
    assert not set(theirs) & set(own)
    assert len(own) >= 8  # two kinds of processors, Python 3.11 to 3.14
    assert len(theirs) >= 12  # and macOS


def test_make_setup_installs_nothing_that_no_hash_holds():
    if shutil.which("make") is None:
        pytest.skip("needs make")
    told = subprocess.run(["make", "-n", "-B", "setup", "TORCH_INDEX="], cwd=ROOT, capture_output=True, text=True, check=True)
    calls = re.findall(r"-m pip install ([^;|}\n]*)", told.stdout)
    own = [call for call in calls if " -e " in call]
    assert len(own) == 1
    assert {"--no-deps", "--no-build-isolation"} <= set(own[0].split())
    files = {file for call in calls for file in re.findall(r"-r (\S+)", call)}
    assert files == {EVERYTHING, FROM_PYPI, FOR_CPUS}
    for call in calls:
        if call not in own:
            assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(call.split()), call


def flags() -> list[str]:
    """What the Makefile gives pip for locked packages."""
    (line,) = re.findall(r"^LOCKED := install \$\(PIP_FLAGS\) (.*)$", MAKEFILE, re.M)
    return shlex.split(line)


def wheel(folder: Path, requires: str = "") -> str:
    """A package without content; its SHA-256."""
    path = folder / "lock_probe-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("lock_probe-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: lock-probe\nVersion: 1.0\n{requires}")
        file.writestr("lock_probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("lock_probe-1.0.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def install(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    (folder / "lock.txt").write_text(line + "\n")
    pip = [sys.executable, "-I", "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--no-index"]
    where = ["--find-links", str(folder), "--target", str(folder / "target"), "-r", str(folder / "lock.txt")]
    return subprocess.run([*pip, *flags(), *where], capture_output=True, text=True, check=False)


def test_a_file_with_another_hash_is_refused(tmp_path):
    good = wheel(tmp_path)
    altered = install(tmp_path, f"lock-probe==1.0 --hash=sha256:{'0' * 64}")
    assert altered.returncode != 0
    assert "DO NOT MATCH THE HASHES" in altered.stderr
    assert install(tmp_path, "lock-probe==1.0").returncode != 0
    assert not (tmp_path / "target").exists()
    assert install(tmp_path, f"lock-probe==1.0 --hash=sha256:{good}").returncode == 0
    assert (tmp_path / "target").exists()


def test_what_only_a_package_asks_for_is_not_fetched(tmp_path):
    """It would be the name of somebody's choice, in a version of the moment: the lock names it, or it is not there."""
    good = wheel(tmp_path, "Requires-Dist: lock-probe-more\n")
    assert install(tmp_path, f"lock-probe==1.0 --hash=sha256:{good}").returncode == 0
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["lock_probe-1.0.dist-info"]
