"""A study's own code in a process of its own. The process sees the code and one client's data, and returns vectors.

On Linux (x86-64 and AArch64; as root, or if users may make user namespaces; otherwise with Landlock) the process:

- *reads* the interpreter, its packages, the system's libraries and the study's code, and no other file: no key, no ledger, and
  nothing of the loader's. If namespaces are refused, so that only Landlock confines it, it may still learn that other files
  exist, and their sizes;
- *writes* `file_bytes` into a folder in memory that ends with it; without namespaces, nothing;
- *reaches* no network, not even this machine, no other process, and no socket;
- *starts* no process, and no more than `threads` threads; nothing is left when it ends, and it ends with the site;
- *takes* `memory_bytes` beside the data, and `file_bytes`; between answers it is stopped;
- has an empty environment (but for settings of how numbers are computed), no descriptor but its pipes and the data, no GPU, no
  capabilities, and, if the site runs as root, a user id that nobody else has (except if namespaces are refused and only root can
  read the interpreter: then memory is what limits the number of threads).

Each time the process starts, all this is tried from inside before the study's code is loaded; `Child.isolation` holds what was
found. With isolation "required" nothing of the study runs if one attempt succeeds. Elsewhere (macOS, other processors) it is a
fresh process with an empty environment and limits, which is no isolation; Windows has none of it.

If the code changes manent's classes, it does so only in its own process. Layers, rounding, noise for clients, masks and the
account are computed in the site's process. Of what comes back only numbers are taken, of the type and shape that the site's plan
says.

Not promised:

- that code tells nothing by the vector itself, within the bounds that layers put on it; by how long it computes, or by failing;
  or, through the processor's caches and load, to another process that measures them;
- that the kernel, or an installed package, has no hole;
- that private training of single examples is private whatever the code does: its batches, clipping and noise are computed in this
  process, by manent's code beside the study's. Such a guarantee trusts the code that was approved;
- limits on the network and the disk for a loader: it is the site's own, and runs earlier, in another process, with the site's
  rights.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from manent.core.errors import ClientFailed, InvalidInput, Refused
from manent.core.protocols import Assignment, ClientContext, Contribution
from manent.core.vectors import Array, Arrays, Vector
from manent.network.sandbox import confine
from manent.network.sandbox.handover import Data
from manent.network.wire import frames
from manent.privacy.check import Plan

MOST_HIDDEN = 200
MOST_SAID = 4096
ANSWER_HEAD = 1 << 16
STARTING = 120.0
"""Seconds within which the process and its packages must start, beside those for the study's own code."""


@dataclass(frozen=True)
class Limits:
    """What a study's code may take.

    Attributes:
        memory_bytes: of address space, beside the client's data. Libraries count: about 0.4 GB for manent itself, 0.9 GB with
            torch.
        seconds: for one answer, and for loading the code.
        file_bytes: of everything that it writes.
        open_files, threads: at most.
    """

    memory_bytes: int = 4_000_000_000
    seconds: float = 3600.0
    file_bytes: int = 64_000_000
    open_files: int = 256
    threads: int = 256


@dataclass(frozen=True)
class Isolation:
    """How a process is confined, as it was tried from inside.

    Attributes:
        means: those in use.
        lacks: those not in use, and why.
        leaks: what was possible that should not be.
    """

    means: tuple[str, ...]
    lacks: Mapping[str, str]
    leaks: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Whether nothing was possible that should not be."""
        return not self.leaks

    def __str__(self) -> str:
        means = ", ".join(self.means) or "nothing"
        lacks = "".join(f"; {name} is not used ({why})" for name, why in self.lacks.items())
        return f"{'; '.join(self.leaks.values()) or 'shut in'}, by {means}{lacks}"


class _Ended(Exception):
    """The process did not answer as it should."""


@dataclass
class _Running:
    """A process, and the site's ends of its pipes."""

    process: subprocess.Popen[bytes]
    commands: int
    answers: int
    output: int
    life: int
    folder: Path
    said: bytearray = field(default_factory=bytearray)
    speaking: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, word: bytes) -> None:
        """A word to the keeper: stop, continue, or kill. If the keeper is dead, the next exchange notices."""
        with self.speaking, contextlib.suppress(BrokenPipeError):
            if self.life >= 0:
                os.write(self.life, word)

    def exchange(self, request: Iterable[memoryview], most: int, seconds: float, head: int = ANSWER_HEAD) -> frames.Frame:
        """Send a request, and read one frame, while listening to what is printed.

        Raises _Ended if the process ends or takes too long, and InvalidInput for what is no frame.
        """
        left, steps, end = list(request), frames.reading(most, head), time.monotonic() + seconds
        window = next(steps)
        with selectors.DefaultSelector() as ready:
            for descriptor in (self.answers, self.output):
                ready.register(descriptor, selectors.EVENT_READ)
            if left:
                ready.register(self.commands, selectors.EVENT_WRITE)
            while time.monotonic() < end:
                for key, _ in ready.select(max(end - time.monotonic(), 0)):
                    if key.fd == self.output:
                        if not self._hear():
                            ready.unregister(self.output)
                    elif key.fd == self.commands:
                        if not self._send(left):
                            ready.unregister(self.commands)
                    else:
                        found = self._fill(window, steps)
                        if isinstance(found, frames.Frame):
                            return found
                        window = found
        raise _Ended(f"it took longer than {seconds:g} s")

    def _hear(self) -> bool:
        """Read what was printed, and keep its end. Returns False at the end of the pipe."""
        heard = os.read(self.output, 1 << 16)
        self.said += heard
        del self.said[:-MOST_SAID]
        return bool(heard)

    def _send(self, left: list[memoryview]) -> bool:
        try:
            sent = os.write(self.commands, left[0][: 1 << 20])
        except BrokenPipeError:
            left.clear()  # it has closed its end: read what it says last, or nothing
            return False
        left[0] = left[0][sent:]
        if not left[0]:
            left.pop(0)
        return bool(left)

    def _fill(self, window: memoryview, steps: Generator[memoryview, None, frames.Frame]) -> memoryview | frames.Frame:
        count = os.readv(self.answers, [window])
        if not count:
            raise _Ended(self.end())
        if count < len(window):
            return window[count:]
        try:
            return next(steps)
        except StopIteration as end:
            frame: frames.Frame = end.value
            return frame

    def end(self) -> str:
        """Kill all of its processes, and say how it ended."""
        with self.speaking:
            life, self.life = self.life, -1
        if life >= 0:
            os.close(life)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            with contextlib.suppress(OSError):
                os.set_blocking(self.output, False)
                while self._hear():
                    pass
            for descriptor in (self.commands, self.answers, self.output):
                os.close(descriptor)
            shutil.rmtree(self.folder, ignore_errors=True)
        return _how(self.process.returncode, bytes(self.said))


class Child:
    """Computes a study's contributions with the study's own code, in a process of its own; a `Trainer`.

    The process starts with `start`, as a context manager, or at the first question. If it had to be ended, it starts again. It
    gives one answer at a time.

    Args:
        code: the bundle's files by name.
        plan: the site's own, of the same bundle.
        data: one client's.
        limits: what the code may take.
        isolation: "required"; or "preferred" if the system may not be able to.
        hidden: the site's folder with its key and ledger, and whatever else must not be seen: the process tries to read files of
            these.
        means: which of `confine.MEANS` are used, if the system has them.

    Attributes:
        isolation: what was found when the process last started; None before.
    """

    def __init__(
        self,
        code: Mapping[str, str],
        plan: Plan,
        data: Data,
        limits: Limits | None = None,
        isolation: Literal["required", "preferred"] = "required",
        hidden: Sequence[Path] = (),
        means: Sequence[str] = confine.MEANS,
    ) -> None:
        self.code, self.plan, self.data, self.limits = code, plan, data, limits or Limits()
        self.required, self.hidden, self.means = isolation == "required", tuple(hidden), tuple(means)
        self.isolation: Isolation | None = None
        self._running: _Running | None = None
        self._one = threading.Lock()

    def start(self) -> None:
        """Start the process, and load the code.

        Raises:
            Refused: if isolation is required and something was possible that should not be; no code was loaded then.
            InvalidInput: if the code cannot be loaded, declares another model, or does not fit the client's data.
        """
        with self._one:
            if self._running is None:
                self._start()

    def _start(self) -> _Running:
        running, self.isolation = _started(self.code, self.data, self.limits, self.hidden, self.means)
        self._running = running
        try:
            self._load(running, self.isolation)
        except BaseException:
            self._end()
            raise
        running.tell(b"s")
        return running

    def _load(self, running: _Running, isolation: Isolation) -> None:
        if self.required and not isolation.complete:
            raise Refused(
                f"The study's own code cannot be isolated here: {isolation}. Use a model without code, or a Linux system "
                f"with user namespaces; or set code.isolation = 'preferred'."
            )
        request = frames.encode({"study": self.plan.study.to_plain()}, {})
        try:
            told = self._ask(running, request, 0, STARTING + self.limits.seconds).head.get("error")
        except (_Ended, InvalidInput) as error:
            told = error
        if told is not None:
            raise InvalidInput(f"The study's own code could not be loaded: {_clean(told)}")

    def answer(self, assignment: Assignment, memory: Vector | None, context: ClientContext, empty: bool = False) -> Contribution:
        """The client's contribution, of the plan's size and type; or, `empty`, what it would be without any example.

        The latter is asked after a failure, of a process that is started anew: the code in it may keep something of what failed.
        NaN and infinity in the vector are left to the caller: behind a clip they become zeros.

        Raises:
            ClientFailed: if the code fails, does not answer in time, or answers anything else.
            Refused, InvalidInput: as `start`.
        """
        with self._one:
            try:
                if empty:
                    self._end()
                return self._answer(self._running or self._start(), assignment, memory, context, empty)
            except (_Ended, InvalidInput) as error:
                raise ClientFailed(context.client, context.round, assignment.sum, str(error)) from None

    def _answer(
        self, running: _Running, assignment: Assignment, memory: Vector | None, context: ClientContext, empty: bool
    ) -> Contribution:
        about = {"client": context.client, "round": context.round, "seed": context.seed, "work": context.work}
        head = {**about, "sum": assignment.sum, "draws": context.draws is not None, "empty": empty}
        arrays: dict[str, Array] = {f"array.{name}": array for name, array in assignment.arrays.items()}
        if memory is not None:
            arrays["memory"] = memory
        size = self.plan.sums[assignment.sum].layout.size
        found = self._ask(running, frames.encode(head, arrays), 8 * size + 4 * self.plan.own, self.limits.seconds)
        if "error" in found.head:
            running.tell(b"s")
            raise InvalidInput(_clean(found.head["error"]))
        try:
            contribution = _contribution(found, size, self.plan.own)
        except InvalidInput:
            self._end()
            raise
        running.tell(b"s")
        return contribution

    def _ask(self, running: _Running, request: list[memoryview], most: int, seconds: float) -> frames.Frame:
        """One exchange. An answer that is out of order ends the process."""
        try:
            running.tell(b"c")
            return running.exchange(request, most, seconds)
        except (_Ended, InvalidInput):
            self._end()
            raise

    def _end(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None

    def close(self) -> None:
        """End the process and everything it has started. A question that is under way fails."""
        if self._running is not None:
            self._running.tell(b"k")
        with self._one:
            self._end()

    def __enter__(self) -> Child:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def isolation_here(hidden: Sequence[Path] = (), means: Sequence[str] = confine.MEANS) -> Isolation:
    """What this system can do, tried with a process that loads no code."""
    with contextlib.closing(_Nothing()) as data:
        running, found = _started({}, data, Limits(), hidden, means)
        running.end()
    return found


class _Nothing:
    """No data."""

    bytes = 0

    def __init__(self) -> None:
        self.descriptor = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        os.close(self.descriptor)


def _started(
    code: Mapping[str, str], data: Data | _Nothing, limits: Limits, hidden: Sequence[Path], means: Sequence[str]
) -> tuple[_Running, Isolation]:
    """A process that has confined itself and waits for work, and how far it is confined.

    Raises InvalidInput if it does not start.
    """
    if os.name != "posix":
        raise Refused("A study's own code is not run on this system; use Linux.")
    folder = _folder(code)
    files = [f"{folder}/canary", *_files(hidden), f"/proc/{os.getpid()}/environ"]
    with _listening() as (port, name):
        running = _process(folder, data, limits, files, port, name, means)
        try:
            head = running.exchange((), 0, STARTING, frames.MOST_HEAD).head
        except (_Ended, InvalidInput) as error:
            running.end()
            raise InvalidInput(f"The process of a study's code could not be started: {error}") from None
    leaks = {str(key): str(value) for key, value in head["leaks"].items()}
    return running, Isolation(tuple(head["means"]), dict(head["lacks"]), leaks)


def _folder(code: Mapping[str, str]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="manent-")).resolve()
    for name in ("code", "scratch", "root"):
        (folder / name).mkdir(mode=0o700)
    for name, text in code.items():
        (folder / "code" / name).write_text(text, encoding="utf-8", newline="")
    (folder / "canary").write_text("what must not be read\n")
    return folder


def _files(hidden: Sequence[Path]) -> list[str]:
    """The files below some paths, those nearest first."""
    found = [path for place in hidden for path in ([place] if place.is_file() else place.rglob("*")) if path.is_file()]
    return [str(path.absolute()) for path in sorted(found, key=lambda path: (len(path.parts), path))[:MOST_HIDDEN]]


@contextlib.contextmanager
def _listening() -> Iterator[tuple[int, str]]:
    """Where no process that is shut in should come: a port of TCP, and an abstract name."""
    name = f"manent-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        if sys.platform == "linux":
            unix.bind(f"\0{name}")
            unix.listen()
        yield tcp.getsockname()[1], name


def _process(
    folder: Path, data: Data | _Nothing, limits: Limits, files: list[str], port: int, name: str, means: Sequence[str]
) -> _Running:
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    output, printed = os.pipe()
    theirs_life, life = os.pipe()
    order = confine.Order(
        means=tuple(means), folder=str(folder), hidden=files, port=port, socket=name, parent=os.getpid(),
        memory=limits.memory_bytes + data.bytes, files=limits.open_files, file_bytes=limits.file_bytes, threads=limits.threads,
        commands=theirs_in, answers=theirs_out, life=theirs_life, data=data.descriptor,
    )  # fmt: skip
    scratch, numbers = f"{folder}/scratch", {name: os.environ[name] for name in confine.NUMBERS if name in os.environ}
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(Path(confine.__file__)), json.dumps(asdict(order))],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            cwd=folder / "code",
            env={**numbers, "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8"},
            pass_fds=(theirs_in, theirs_out, theirs_life, data.descriptor),
            start_new_session=True,
        )
    finally:
        for descriptor in (theirs_in, theirs_out, printed, theirs_life):
            os.close(descriptor)
    os.set_blocking(commands, False)
    return _Running(process, commands, answers, output, life, folder)


def _contribution(found: frames.Frame, size: int, own: int) -> Contribution:
    """Numbers of the type and shape of the plan. Raises InvalidInput for anything else."""
    arrays: Arrays = found.arrays
    if set(arrays) - {"vector", "memory"} or "vector" not in arrays:
        raise InvalidInput(f"its answer holds {_clean(sorted(arrays))}; expected a vector, and perhaps a memory.")
    vector, memory = arrays["vector"], arrays.get("memory")
    if vector.dtype not in (np.dtype(np.float32), np.dtype(np.float64)) or vector.shape != (size,):
        raise InvalidInput(f"its vector is {vector.dtype}{list(vector.shape)}; expected float32 or float64 [{size}].")
    if memory is not None and (memory.dtype != np.float32 or memory.shape != (own,)):
        raise InvalidInput(f"it is to keep {memory.dtype}{list(memory.shape)}; its algorithm declares float32[{own}].")
    if memory is not None and np.isfinite(vector).all() and not np.isfinite(memory).all():
        raise InvalidInput("it is to keep NaN or infinity; every number must be finite.")
    loss = found.head.get("loss")
    return Contribution(vector, memory, {"loss": loss} if isinstance(loss, float) else {})


def _clean(text: object) -> str:
    """Text from code that is not trusted, for a message: one line, without characters that control a terminal."""
    shown = "".join(c if c.isprintable() else " " for c in str(text)[:600])
    return " ".join(shown.split())


def _how(code: int, said: bytes) -> str:
    """How a process ended, and the last of what it printed."""
    names = {signal.SIGKILL: "killed, perhaps for want of memory", signal.SIGSEGV: "ended by a fault of memory"}
    number = code - 128 if code > 128 else -code
    with contextlib.suppress(ValueError):
        names.setdefault(signal.Signals(number), f"ended by {signal.Signals(number).name}")
    how = f"it ended with code {code}" if number <= 0 or number not in names else f"it was {names[signal.Signals(number)]}"
    last = said.decode(errors="replace").strip()[-300:]
    return f"{how}; it last said: {_clean(last)}" if last else how
