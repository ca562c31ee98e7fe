"""Starts the two processes of one thread of `pfl_rounds.py`, as torchrun would, and ends when one of them does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

PROCESSES = 2


def main() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    shared = {"TORCHELASTIC_RUN_ID": "benchmark", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared |= {"WORLD_SIZE": str(PROCESSES), "LOCAL_WORLD_SIZE": str(PROCESSES)}
    command = [sys.executable, str(Path(__file__).with_name("pfl_rounds.py")), sys.argv[1]]
    started = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(PROCESSES)
    ]
    code = started[0].wait()
    for process in started[1:]:
        process.terminate()
        process.wait()
    sys.exit(code)


if __name__ == "__main__":
    main()
