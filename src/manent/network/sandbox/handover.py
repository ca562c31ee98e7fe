"""A site's data on their way to the process of a study's code: loaded once, in memory without a file name, and unchangeable.

The site's own loader runs in a process of its own, with the site's rights, before any of a study's code is loaded anywhere. That
process ends first, so whatever else the loader leaves in memory, such as a database's password, is gone, and nothing that it
opened stays open. As a script: `python -I -m manent.network.sandbox.handover FILE.py NAME DESCRIPTOR`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.examples import Client, Examples
from manent.core.vectors import Array
from manent.data.federation import Federation
from manent.network.wire import frames
from manent.rounds.strict import shown

_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # no further seals, shrinking, growing or writing


@dataclass(frozen=True)
class Data:
    """One client's data as a frame in a file in memory, which processes may share and none may change.

    Attributes:
        descriptor: of that file, for reading.
        name: of the client; repeatable randomness is drawn from it.
        train: number of training rows.
        test: number of test rows; None without a test part.
        bytes: of memory that they take.
    """

    descriptor: int
    name: str
    train: int
    test: int | None
    bytes: int

    @classmethod
    def of(cls, client: Client) -> Data:
        """A copy of data in this process. Raises InvalidInput for arrays of anything but numbers."""
        return cls._filled(lambda file: _write(file, client))

    @classmethod
    def load(cls, path: str | Path, name: str, seconds: float = 3600.0) -> Data:
        """What a loader returns: the function `name` in a file of the site's own, which gives a Client, Examples, or a pair
        (train, test) of Examples.

        Args:
            seconds: for which it may run.

        Raises InvalidInput if it raises, returns anything else, or takes longer.
        """

        def run(file: int) -> None:
            """Run the loader, which writes to the file."""
            own = [sys.executable, "-I", "-m", "manent.network.sandbox.handover", str(Path(path).absolute()), name, str(file)]
            try:
                done = subprocess.run(own, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=(file,), timeout=seconds)
            except subprocess.TimeoutExpired:
                raise InvalidInput(f"{name} in {path} takes longer than {seconds:g} s to return the data.") from None
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
                raise InvalidInput(f"{name} in {path} returned no data (exit code {done.returncode}): {said[-1]}")

        return cls._filled(run)

    @classmethod
    def _filled(cls, fill: Callable[[int], None]) -> Data:
        file, kept = _file()
        try:
            fill(file)
            kept = _closed(file, kept)
            client = read(kept)
            return cls(kept, client.name, len(client.train), None if client.test is None else len(client.test), _size(kept))
        except BaseException:
            os.close(kept)
            raise

    def close(self) -> None:
        """Free the memory, once no process uses it."""
        os.close(self.descriptor)

    def __enter__(self) -> Data:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _file() -> tuple[int, int]:
    """A file without a name: a descriptor to write to, and one to read from."""
    if hasattr(os, "memfd_create"):
        found = os.memfd_create("manent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        return found, found
    writing, path = tempfile.mkstemp()
    reading = os.open(path, os.O_RDONLY)
    os.unlink(path)
    return writing, reading


def _closed(writing: int, reading: int) -> int:
    """The descriptor to read from, after which nobody can write any more."""
    if writing == reading:
        import fcntl

        fcntl.fcntl(reading, fcntl.F_ADD_SEALS, _SEALS)
    else:
        os.close(writing)
    return reading


def _size(descriptor: int) -> int:
    return os.fstat(descriptor).st_size


def _write(descriptor: int, client: Client) -> None:
    arrays: dict[str, Array] = {}
    for part, examples in (("train", client.train), ("test", client.test)):
        if examples is not None:
            arrays |= {f"{part}.x": examples.x, f"{part}.y": examples.y}
            arrays |= {f"{part}.column.{name}": column for name, column in examples.columns.items()}
    frames.write(descriptor, {"name": client.name}, arrays)


def read(descriptor: int) -> Client:
    """The client whose data were written to a file. Raises InvalidInput for anything else."""
    frame = frames.read(descriptor, _size(descriptor), file=True)
    if frame is None or not isinstance(frame.head.get("name"), str):
        raise InvalidInput("The loader returned no data.")
    train = _part(frame.arrays, "train")
    if train is None:
        raise InvalidInput("The loader returned no training part.")
    return Client(frame.head["name"], train, _part(frame.arrays, "test"))


def _part(arrays: Mapping[str, Array], part: str) -> Examples | None:
    if f"{part}.x" not in arrays or f"{part}.y" not in arrays:
        return None
    head = f"{part}.column."
    columns = {name.removeprefix(head): array for name, array in arrays.items() if name.startswith(head)}
    return Examples(arrays[f"{part}.x"], arrays[f"{part}.y"], columns)


def as_client(found: object) -> Client:
    """One client's data from what a loader has returned. Raises InvalidInput for anything else."""
    if isinstance(found, Federation) and len(found) == 1:
        found = found.clients[0]
    if isinstance(found, Client):
        return found
    if isinstance(found, Examples):
        return Client("site", found)
    if isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, Examples) for part in found):
        return Client("site", *found)
    raise InvalidInput(f"A loader returns a Client, Examples, or a pair of them (train, test); found {validate.typed(found)}.")


def execute(path: Path, module: str) -> ModuleType:
    """Run a file as a module, which may import files beside it. Raises what the file raises."""
    spec = spec_from_file_location(module, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{shown(path.name)} cannot be loaded as Python.")
    found = module_from_spec(spec)
    sys.modules[module] = found
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(found)
    return found


def main(path: str, name: str, descriptor: str) -> None:
    """Load the data, and write them to the descriptor."""
    function: Any = getattr(execute(Path(path), "loader_file"), name, None)
    if not callable(function):
        raise SystemExit(f"it defines no function {name!r}")
    _write(int(descriptor), as_client(function()))


if __name__ == "__main__":
    main(*sys.argv[1:])
