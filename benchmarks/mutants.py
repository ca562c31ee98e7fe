"""Mutation of the privacy path: single faults are planted in a copy of the source, and the tests that should see each must fail.

    python benchmarks/mutants.py --json
    python benchmarks/mutants.py --area crypto     # those of one table
    python benchmarks/mutants.py --only noise      # those whose name, file or tests hold this text
    python benchmarks/mutants.py --list

The faults are data, in benchmarks/mutants/*.toml, one file an area. Each names its file, a piece of text in it (`anchor`), what
takes its place, and the tests that should fail: files, or single tests of them. It is a mistake in the table where an anchor is
not found exactly once, or a test fails without any fault: the run stops. So is a module that cannot be imported with its fault.

A fault is killed where a test fails, and survives where all pass. One that changes nothing that could be seen is marked
`equivalent`, with the reason; its tests must pass. The exit code is 0 only where none survived.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import common

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "benchmarks" / "mutants"
COPIED = (
    "src",
    "tests",
    "benchmarks",
    "examples",
    "docs",
    "pyproject.toml",
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
LONGEST = 400.0
"""Seconds that one fault's tests may take, generously, as machines are busy. A test that waits for ever needs a better test."""
IMPORT_FAILED = 90
_BREEDER = f"""
import importlib, json, os, sys
for name in ("numpy", "scipy.optimize", "scipy.special", "scipy.stats", "dp_accounting", "dp_accounting.pld", "pytest"):
    importlib.import_module(name)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.setsid()
    said = os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0), os.dup2(said, 1), os.dup2(said, 2)
    code = {IMPORT_FAILED}
    try:
        if asked["module"]:
            importlib.import_module(asked["module"])
    except BaseException as error:
        print(type(error).__name__, error)
    else:
        import pytest
        code = int(pytest.main(asked["options"]))
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)
"""
"""A process that has imported what is not manent's, and forks one child for each fault: imports take longer than most tests."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: what goes wrong, in words.
        file: which file of src/manent.
        anchor: text that is in the file exactly once.
        replacement: what takes its place.
        tests: those that should fail: files, or single tests of them.
        equivalent: why nothing that could be seen changes; "" where a test must fail.
        area: the table that it is in.
    """

    name: str
    file: str
    anchor: str
    replacement: str
    tests: tuple[str, ...]
    equivalent: str = ""
    area: str = ""

    @property
    def module(self) -> str:
        """The module that is changed."""
        return "manent." + self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def planted(self, text: str) -> str:
        """The file's text with the fault. Raises ValueError where the anchor is not in it exactly once."""
        found = text.count(self.anchor)
        if found != 1:
            raise ValueError(f"{self.area}: {self.name!r}: the anchor is {found} times in {self.file}, not once.")
        return text.replace(self.anchor, self.replacement)


def table() -> list[Fault]:
    """All faults. Raises ValueError for two of one name, for an unknown field, and for a fault that changes nothing."""
    found = []
    for path in sorted(TABLES.glob("*.toml")):
        for entry in tomllib.loads(path.read_text())["fault"]:
            try:
                fault = Fault(**{**entry, "tests": tuple(entry["tests"])}, area=path.stem)
            except (TypeError, KeyError) as error:
                raise ValueError(f"{path.stem}: {entry.get('name')!r}: {error}") from None
            if fault.anchor == fault.replacement or not fault.tests:
                raise ValueError(f"{path.stem}: {fault.name!r} changes nothing, or names no test.")
            found.append(fault)
    twice = [name for name, count in Counter(fault.name for fault in found).items() if count > 1]
    if twice:
        raise ValueError(f"Two faults have the name {twice[0]!r}.")
    return found


def check_anchors(faults: list[Fault]) -> list[str]:
    """What is wrong with the anchors, and with the names of tests."""
    wrong = []
    for fault in faults:
        try:
            fault.planted((ROOT / "src" / "manent" / fault.file).read_text())
        except (OSError, ValueError) as error:
            wrong.append(str(error))
        wrong += [
            f"{fault.area}: {fault.name!r}: no file {test}" for test in fault.tests if not (ROOT / test.split("::")[0]).exists()
        ]
    return wrong


class Copy:
    """A copy of the tree, in which one fault at a time is planted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
            elif source.exists():
                shutil.copy2(source, folder / name)
        shared = ROOT.parent / "shared"
        if shared.exists() and not (folder.parent / "shared").exists():
            (folder.parent / "shared").symlink_to(shared)  # test vectors, where a checkout has them beside it
        # Checked by the source's hash, as a fault may be planted within the same second.
        compiled = ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "src"]
        subprocess.run([sys.executable, *compiled], cwd=folder, check=True)
        environment = os.environ | {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-c", _BREEDER]
        self.breeder = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def test(self, tests: tuple[str, ...], module: str = "", first: bool = True) -> tuple[int | None, str]:
        """Exit code of pytest and the end of its output; None where it ran out of time. With `first` it stops at a failure."""
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--no-header", "--tb=line", *["-x"] * first, *tests]
        said = self.folder.parent / "said"
        asking, telling = self.breeder.stdin, self.breeder.stdout
        assert asking is not None
        assert telling is not None
        print(json.dumps({"module": module, "options": options, "said": str(said)}), file=asking, flush=True)
        late, child = threading.Event(), int(telling.readline())

        def end() -> None:
            late.set()
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)

        timer = threading.Timer(LONGEST if first else 4 * LONGEST, end)
        timer.start()
        code = int(telling.readline())
        timer.cancel()
        return None if late.is_set() else code, said.read_text(errors="replace")[-1500:]

    def run(self, fault: Fault) -> tuple[str, str]:
        """ "killed", "survived", "hung" or "broken", and the end of the output."""
        path = self.folder / "src" / "manent" / fault.file
        text = path.read_text()
        path.write_text(fault.planted(text))
        try:
            code, said = self.test(fault.tests, fault.module)
        finally:
            path.write_text(text)
        # 1: a test failed. 2 to 5: pytest could not run the tests, so nothing was learned.
        return {None: "hung", 0: "survived", 1: "killed"}.get(code, "broken"), said


def check_tests(copies: list[Copy], faults: list[Fault]) -> list[str]:
    """Run every test that is named, once, without any fault. Returns what failed."""
    files: dict[str, set[str]] = {}
    for test in {test for fault in faults for test in fault.tests}:
        files.setdefault(test.split("::")[0], set()).add(test)
    groups: list[list[str]] = [[] for _ in copies]
    for number, (file, tests) in enumerate(sorted(files.items())):
        groups[number % len(copies)] += [file] if file in tests else sorted(tests)
    with ThreadPoolExecutor(len(copies)) as pool:
        jobs = [pool.submit(copy.test, tuple(group), "", False) for copy, group in zip(copies, groups, strict=True) if group]
        found = [job.result() for job in jobs]
    return [f"exit code {code}: {said}" for code, said in found if code != 0]


def run_all(copies: list[Copy], faults: list[Fault]) -> list[dict[str, Any]]:
    """Plant every fault, as many at a time as there are copies."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(fault: Fault) -> dict[str, Any]:
        copy, start = free.get(), time.monotonic()
        try:
            outcome, said = copy.run(fault)
        finally:
            free.put(copy)
        seconds = round(time.monotonic() - start, 1)
        if fault.equivalent and outcome == "survived":
            outcome = "equivalent"
        print(f"{outcome:10} {seconds:6.1f} s  {fault.area}: {fault.name}", file=sys.stderr, flush=True)
        return {"name": fault.name, "area": fault.area, "outcome": outcome, "seconds": seconds, "said": said}

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(one, faults))


def measure(faults: list[Fault], jobs: int, checked: bool) -> dict[str, Any]:
    """Everything: outcomes by name, and how many of each. Raises ValueError where a test fails without any fault."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copies = [Copy(Path(scratch) / f"job-{number}" / "tree") for number in range(jobs)]
        try:
            failed = check_tests(copies, faults) if checked else []
            if failed:
                raise ValueError("Tests fail without any fault:\n" + "\n".join(failed))
            print(f"tests without a fault: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            found = run_all(copies, faults)
        finally:
            for copy in copies:
                copy.breeder.communicate()  # it ends with its input
    names = {outcome: [one["name"] for one in found if one["outcome"] == outcome] for outcome in ("survived", "hung", "broken")}
    counts = Counter(one["outcome"] for one in found)
    killed_equivalents = [
        fault.name for fault, one in zip(faults, found, strict=True) if fault.equivalent and one["outcome"] == "killed"
    ]
    return {
        "faults": len(found),
        "killed": counts["killed"],
        "survived": counts["survived"],
        "equivalent": counts["equivalent"],
        "survivors": names["survived"],
        "hung": names["hung"],
        "broken": [{"name": one["name"], "said": one["said"]} for one in found if one["outcome"] == "broken"],
        "not_equivalent": killed_equivalents,
        "notes": {fault.name: fault.equivalent for fault in faults if fault.equivalent},
        "areas": dict(sorted(Counter(one["area"] for one in found).items())),
        "seconds": round(time.monotonic() - start, 1),
        "slowest": {one["name"]: one["seconds"] for one in sorted(found, key=lambda one: -one["seconds"])[:5]},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="TEXT", help="only faults whose name, area, file or tests hold this text")
    parser.add_argument(
        "--area", choices=sorted(path.stem for path in TABLES.glob("*.toml")), help="only the faults of one table"
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many faults at a time")
    parser.add_argument("--list", action="store_true", help="say which faults there are, and check their anchors")
    parser.add_argument("--unchecked", action="store_true", help="do not run the tests without a fault first")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    options = parser.parse_args()
    try:
        faults = [one for one in table() if options.area in (None, one.area)]
        faults = [
            one for one in faults if not options.only or options.only in " ".join((one.name, one.area, one.file, *one.tests))
        ]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    wrong = check_anchors(faults)
    if options.list:
        listed = [(fault.area, fault.name, fault.file, " ".join(fault.tests)) for fault in faults]
        common.show(f"{len(listed)} faults", ("area", "fault", "file", "tests"), listed)
    if wrong or options.list or not faults:
        print("\n".join(wrong or ["No fault has that text."] * (not faults)), file=sys.stderr)
        return 2 * bool(wrong)
    try:
        found = measure(faults, max(1, options.jobs), not options.unchecked)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    rows = [(name, found[name]) for name in ("faults", "killed", "survived", "equivalent", "seconds")]
    common.show("Single faults in a copy of the source", ("outcome                    ", "number"), rows)
    for name in ("survivors", "hung", "broken", "not_equivalent"):
        for one in found[name]:
            print(f"{name}: {one['name'] + ': ' + one['said'] if isinstance(one, dict) else one}")
    common.keep(None if options.only or options.area else "mutants", found, options.json)
    return int(bool(found["survivors"] or found["hung"] or found["broken"] or found["not_equivalent"]))


if __name__ == "__main__":
    sys.exit(main())
