"""The run folder: everything about a run in plain files.

study.json          the study as plain data, its hash, the seed and what the simulation assumed
environment.json    versions, machine, fingerprint of the data
history.jsonl       one row a sum: what the server learned, and what it cost
probe.jsonl         one row a round: what only a simulation can know; not private
checkpoint.safetensors   the study's state, progress and memory flags after the last sum, replaced in one step before anybody is
                    told of the sum
memory.bin          what clients keep between rounds
reservation.json    the id under which a ledger keeps what was reserved, where one was given
model.safetensors   the final model; for a query result.json, its answer
statement.txt/.json who sees what
failures/           inputs of clients that failed
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from manent.core.errors import InvalidInput
from manent.core.vectors import Array, Arrays
from manent.rounds.reducer import Progress
from manent.storage.durable import sync_file, sync_folder

Row = dict[str, Any]
PACKAGES = ("manent", "numpy", "scipy", "torch", "jax", "scikit-learn", "safetensors", "cryptography")


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to be resumed.

    Attributes:
        arrays: the study's state; see `rounds.state.State.named`.
        current: uint8, one a client: which slot of its memory is current.
        elapsed: seconds of all sessions so far.
        losses: the sum and the number of the unfinished round's training losses.
        lengths: bytes of each log that belong to it.
        released: how many sums were released, or counted as such.
        release: the last sum that was, as its round, its number in it, and the digest of its noised total; or None.
        rows: of each log, by name, what is told with it. A run that is resumed tells them again.
    """

    arrays: Arrays
    progress: Progress
    current: Array
    elapsed: float
    losses: tuple[float, int]
    lengths: Mapping[str, int]
    released: int = 0
    release: tuple[int, int, str] | None = None
    rows: tuple[tuple[str, Row], ...] = ()


class RunFolder:
    """A folder that holds one run. Files that must be whole are written beside and then renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """A new folder, which is made when the first file is written. Raises InvalidInput where it already holds a run."""
        folder = cls(Path(path))
        if folder.begun:
            raise InvalidInput(f"{path} already holds a run; resume it, or choose another folder.")
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing folder. Raises InvalidInput where it holds no run."""
        folder = cls(Path(path))
        if not folder.begun:
            raise InvalidInput(f"{path} holds no run (no study.json); give the folder that a run wrote.")
        return folder

    @property
    def begun(self) -> bool:
        """Whether it holds a run."""
        return (self.path / "study.json").is_file()

    @property
    def memory(self) -> Path:
        """The file of what clients keep."""
        return self.path / "memory.bin"

    @property
    def failures(self) -> Path:
        """The folder for the inputs of clients that failed."""
        return self.path / "failures"

    def write(self, name: str, value: object) -> None:
        """Write a JSON file in one step; it is on the disk when this returns."""
        self._replace(self.path / name, json.dumps(value, indent=2, ensure_ascii=False).encode(), durable=True)

    def remove(self, name: str) -> None:
        """Remove a file, where there is one."""
        (self.path / name).unlink(missing_ok=True)

    def read(self, name: str) -> Row:
        """Read a JSON file. Raises InvalidInput where it does not hold an object."""
        try:
            row = json.loads((self.path / name).read_text())
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise self.damaged(name)
        return row

    def write_text(self, name: str, text: str) -> None:
        """Write a text file in one step."""
        self._replace(self.path / name, text.encode())

    def append(self, log: str, row: Row) -> None:
        """Add a row to a JSON-lines log."""
        with open(self.path / log, "ab") as file:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def rows(self, log: str) -> list[Row]:
        """All rows of a log; none where there is no such file. Raises InvalidInput for one that was not written here."""
        path = self.path / log
        try:
            return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        except ValueError:
            raise self.damaged(log) from None

    def save(self, checkpoint: Checkpoint, durable: bool = True) -> None:
        """Replace the checkpoint in one step; with `durable`, it is on the disk when this returns."""
        facts = {
            "progress": {**asdict(checkpoint.progress), "answered": [], "lost": []},
            "elapsed": checkpoint.elapsed,
            "losses": checkpoint.losses,
            "lengths": dict(checkpoint.lengths),
            "released": checkpoint.released,
            "release": checkpoint.release,
            "rows": checkpoint.rows,
        }
        if durable:
            for log in checkpoint.lengths:
                if (self.path / log).exists():
                    sync_file(self.path / log)
        arrays, words = {**checkpoint.arrays, "current": checkpoint.current}, json.dumps(facts)
        data = save(arrays, {"facts": words, "digest": _digest(arrays, words)})
        self._replace(self.path / "checkpoint.safetensors", data, durable)

    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint, or None. The logs are cut back to what they held when it was made.

        Raises InvalidInput for a checkpoint that was damaged or altered, and for a log that lost rows.
        """
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            for log in ("history.jsonl", "probe.jsonl"):
                (self.path / log).unlink(missing_ok=True)
            return None
        facts, arrays = self._stored(path)
        held = self.lengths()
        for log, length in facts["lengths"].items():
            if held[log] < length:
                raise self.damaged(log)
            if length < held[log]:
                os.truncate(self.path / log, length)
        progress = Progress(**{**facts["progress"], "answered": frozenset(), "lost": frozenset()})
        current = arrays.pop("current")
        losses, release = tuple(facts["losses"]), facts.get("release")
        told = (None if release is None else tuple(release), tuple((log, row) for log, row in facts.get("rows", ())))
        return Checkpoint(arrays, progress, current, facts["elapsed"], losses, facts["lengths"], facts.get("released", 0), *told)

    def _stored(self, path: Path) -> tuple[Row, dict[str, Array]]:
        """What a checkpoint holds, once its digest agrees. One of an older version has no digest."""
        try:
            with safe_open(path, "numpy") as file:
                meta = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError:
            raise self.damaged(path.name) from None
        words = meta.get("facts", "")
        if not words or meta.get("digest", _digest(arrays, words)) != _digest(arrays, words):
            raise self.damaged(path.name)
        facts: Row = json.loads(words)
        return facts, arrays

    def damaged(self, name: str) -> InvalidInput:
        """The error for a file that the run did not write so."""
        return InvalidInput(
            f"{self.path / name} is not what the run wrote: it was damaged, or altered. Restore the folder from a sound copy, "
            f"or begin a new run in another folder."
        )

    def lengths(self) -> dict[str, int]:
        """The present size of each log, in bytes."""
        logs = [self.path / log for log in ("history.jsonl", "probe.jsonl")]
        return {log.name: log.stat().st_size if log.exists() else 0 for log in logs}

    def _replace(self, path: Path, data: bytes, durable: bool = False) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
        if durable:
            sync_folder(self.path)


def _digest(arrays: Arrays, words: str) -> str:
    """SHA-256 of a checkpoint's words, and of its arrays by name."""
    found = hashlib.sha256(words.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(json.dumps([name, array.dtype.str, array.shape]).encode() + array.tobytes())
    return found.hexdigest()


def environment(fingerprint: str) -> Row:
    """Versions of packages, the machine, and the fingerprint of the data of a run."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": versions,
        "data": fingerprint,
    }
