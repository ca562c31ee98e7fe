"""What clients keep between rounds, in a file. It is committed only when the client was in the released sum."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manent.core.vectors import Vector


class ClientMemory:
    """float32[m] for each of n clients, zero at first, in a sparse file.

    Each client has two slots. A staged row goes to the slot that is not current, and `commit` makes that slot current. So no
    current row is ever half written. A checkpoint is made after every sum, so the rows that its flags call current have not
    changed since. Reads and writes name their position in the file, so forked workers may share it; nothing is kept in memory.

    Args:
        size: m.
        path: the file; None takes a temporary one.
        current: uint8[n], which slot of each client is current, from a checkpoint; None for a new run.
    """

    def __init__(self, clients: int, size: int, path: Path | None = None, current: NDArray[np.uint8] | None = None) -> None:
        self.clients, self.size = clients, size
        self.current = np.zeros(clients, np.uint8) if current is None else current.copy()
        if path is None:
            self._file = tempfile.TemporaryFile(prefix="manent-memory-")  # noqa: SIM115 - lives as long as the object
        else:
            self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
        os.truncate(self._file.fileno(), 2 * clients * self._row)

    @property
    def _row(self) -> int:
        return 4 * self.size

    def read(self, client: int, current: int) -> Vector:
        """float32[m], the row in a client's slot `current`."""
        vector = np.empty(self.size, np.float32)
        os.preadv(self._file.fileno(), [vector.data.cast("B")], (2 * client + current) * self._row)
        return vector

    def stage(self, client: int, current: int, vector: Vector) -> None:
        """Write a client's next row beside its current one."""
        row = np.ascontiguousarray(vector, np.float32)
        os.pwrite(self._file.fileno(), row.tobytes(), (2 * client + 1 - current) * self._row)

    def commit(self, clients: list[int]) -> None:
        """Make the staged rows of these clients current."""
        self.current[clients] ^= 1

    def flush(self) -> None:
        """Return once all rows are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a temporary one is gone then."""
        self._file.close()
