"""A server and sites as processes of their own, over TLS on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import load_file

from manent.core.vectors import Array

PROGRAM = (sys.executable, "-c", "from manent.app.main import main; main()")
STUDY = """
import manent as mn

data = mn.data.heart_disease()
study = mn.Study(
    mn.{algorithm}(mn.LogisticModel(13), mn.LocalSGD(lr=0.01, steps=5, batch_size=4), evaluation=mn.Evaluation(every=2)),
    rounds={rounds},
    cohort=mn.Cohort(minimum=4),
    summation={summation},
    name="hospitals",
)
"""
LOAD = """
import manent as mn

def load():
    return mn.data.heart_disease().clients[{index}]
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Federation:
    """A server and four hospitals, each a process with a folder of its own."""

    def __init__(self, folder: Path, summation: str = "mn.Plain()", rounds: int = 3, algorithm: str = "FedAvg", sites: int = 4):
        self.folder, self.port, self.sites = folder, free_port(), sites
        self.study = folder / "study.py"
        self.study.write_text(STUDY.format(summation=summation, rounds=rounds, algorithm=algorithm))
        for index in range(sites):
            (folder / f"load{index}.py").write_text(LOAD.format(index=index))
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self.running):
            self.kill(name)

    def _start(self, name: str, *arguments: str | Path) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        command: Sequence[str] = (*PROGRAM, *(str(argument) for argument in arguments))
        own = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=own)

    def serve(self, *options: str | Path, name: str = "server", port: int | None = None) -> None:
        """Start the server, or start it again; or another process of it, at a port of its own."""
        where = ("--folder", self.folder / "srv", "--port", str(port or self.port))
        self._start(name, "serve", self.study, *where, "--grace-seconds", "60", *options)

    @property
    def tokens(self) -> list[str]:
        """The invitations, one for each address; the first server's first."""
        first = self.folder / "srv" / "invitation.txt"
        until(lambda: first.exists() and first.read_text().endswith("\n"), 30, self.logs)
        others = sorted((self.folder / "srv").glob("invitation-*.txt"))
        return [path.read_text().strip() for path in (first, *others)]

    def join(self, index: int, server: int = 0) -> None:
        """Start a site, or start it again."""
        name = f"site{index}"
        where = ("--data", f"load{index}.py:load", "--folder", self.folder / name, "--name", name)
        self._start(name, "join", self.tokens[server], *where, "--plain")

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def result(self, seconds: float) -> dict[str, Array]:
        """What the study has come to, once it is over."""
        until(lambda: bool(self.over), seconds, self.logs)
        return load_file(self.over[0] / "result.safetensors")

    @property
    def over(self) -> list[Path]:
        return [path.parent for path in (self.folder / "srv" / "results").glob("*/study.json")]

    def logs(self) -> str:
        """The last lines that each process wrote."""
        found = [(path.name, path.read_text().splitlines()[-8:]) for path in sorted(self.folder.glob("*.log"))]
        return "\n".join(f"--- {name}\n" + "\n".join(line[:600] for line in lines) for name, lines in found)


def until(holds: object, seconds: float, tell: object = None) -> None:
    """Wait until something holds; fail, telling what happened, after so many seconds."""
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        if time.monotonic() > end:
            raise AssertionError(f"Nothing for {seconds} s.\n{tell() if callable(tell) else ''}")
        time.sleep(0.05)
