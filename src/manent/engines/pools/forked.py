"""A pool of forked processes of one thread each, which live for a whole run.

The fork gives them the data and the model. The arrays of an assignment and the partial sums lie in shared memory, and only small
JSON messages cross the pipes. Nothing is pickled, so lambdas and local classes work, and scripts need no main guard.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from manent.core.errors import BudgetSpent, ClientFailed, InvalidInput, ManentError, NotAuthorized, ProtocolAbort, Refused
from manent.core.protocols import Assignment
from manent.core.sums import Partial
from manent.core.vectors import Array
from manent.engines.clients import ClientSide, Unit, UnitAnswer
from manent.engines.pools.allocation import keep_freed
from manent.engines.pools.pool import Measure

Message = dict[str, Any]
ERRORS = {kind.__name__: kind for kind in (BudgetSpent, InvalidInput, ManentError, NotAuthorized, ProtocolAbort, Refused)}
"""The errors that the parent raises again as they are, by name: those that are made of their message alone."""
AHEAD = 2
"""Units that a worker may be given before it must answer; it has as many slots for results."""


class Arena:
    """Shared memory that grows: an unlinked file, mapped by the parent and every worker."""

    def __init__(self, size: int) -> None:
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - unlinked at once
        self._file = tempfile.TemporaryFile(dir=folder, prefix="manent-")  # noqa: SIM115 - lives as long as the object
        self._map: mmap.mmap | None = None
        self.size = 0
        self.ensure(size)

    def ensure(self, size: int) -> None:
        """Map at least `size` bytes."""
        if self._map is not None and size <= self.size:
            return
        self.size = max(size, mmap.PAGESIZE)
        if os.fstat(self._file.fileno()).st_size < self.size:
            os.truncate(self._file.fileno(), self.size)
        self._map = mmap.mmap(self._file.fileno(), self.size)

    def view(self, offset: int, count: int, dtype: type) -> Array:
        """An array [count] over the shared bytes, from a byte offset. Raises ManentError after `close`."""
        if self._map is None:
            raise ManentError("The shared memory is closed.")
        return np.frombuffer(self._map, dtype, count, offset)

    def close(self) -> None:
        """Free the memory, once the last array over it is gone."""
        self._map = None
        self._file.close()


class Forked:
    """A `Pool` of forked processes.

    Args:
        count: how many to fork.
    """

    def __init__(self, count: int, side: ClientSide, measure: Measure) -> None:
        largest = max(stack.layout.size for stack in side.plan.stacks.values())
        self._arena = Arena(mmap.PAGESIZE)
        self._results = [Arena(AHEAD * 8 * max(largest, 1)) for _ in range(count)]
        self._largest, self._plan = largest, side.plan
        self._assignment: dict[str, object] = {}
        self._pipes: list[Connection] = []
        self._pids: list[int] = []
        sys.stdout.flush()
        sys.stderr.flush()
        for number in range(count):
            ours, theirs = connection.Pipe()
            pid = os.fork()
            if pid == 0:
                for pipe in (*self._pipes, ours):
                    pipe.close()  # else a worker would outlive a killed parent
                self._serve(theirs, number, side, measure)
            theirs.close()
            self._pipes.append(ours)
            self._pids.append(pid)

    def _serve(self, pipe: Connection, number: int, side: ClientSide, measure: Measure) -> None:
        """The worker's loop; never returns."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
        code = 0
        try:
            _one_thread()
            keep_freed()
            with threadpool_limits(1):
                while True:
                    message = json.loads(pipe.recv_bytes())
                    pipe.send_bytes(json.dumps(self._reply(message, number, side, measure)).encode())
        except EOFError:
            pass  # the parent is gone, or has closed the pool
        except BaseException as error:  # noqa: BLE001 - the last words of a process that must not return into the caller's code
            print(f"manent worker {number} stopped: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            code = 1
        finally:
            os._exit(code)

    def _reply(self, message: Message, number: int, side: ClientSide, measure: Measure) -> Message:
        try:
            self._arena.ensure(message["bytes"])
            arrays = {name: self._arena.view(at, size, np.float32) for name, at, size in message["arrays"]}
            if "measure" in message:
                clients = [side.clients[i] for i in message["measure"]]
                return {"measured": [measure(arrays["model"], client) for client in clients]}
            unit = Unit(
                **{**message["unit"], "clients": tuple(message["unit"]["clients"]), "slots": tuple(message["unit"]["slots"])}
            )
            stack = side.plan.stacks[unit.sum]
            size = stack.layout.size
            out = self._results[number].view(8 * self._largest * message["slot"], size, stack.dtype)
            answer = side.answer(unit, Assignment(unit.sum, arrays), out)
            return {
                "size": None if answer.partial.total is None else size,
                "answered": answer.answered,
                "lost": answer.lost,
                "sent_to": answer.sent_to,
                "losses": answer.losses,
                "failures": [_facts(error) for error in answer.failures],
            }
        except ClientFailed as error:
            return {"failed": _facts(error)}
        except Exception as error:  # noqa: BLE001 - the parent raises it: a worker that ended would look as if it had been killed
            return {"raised": [type(error).__name__, str(error), "".join(traceback.format_exception(error))]}

    @property
    def size(self) -> int:
        """How many processes there are."""
        return len(self._pids)

    def publish(self, assignment: Assignment) -> None:
        """Put an assignment's arrays where the workers read them."""
        places, at = [], 0
        for name, array in assignment.arrays.items():
            places.append((name, at, array.size))
            at += 64 * -(-array.nbytes // 64)
        self._arena.ensure(at)
        for (_, start, size), array in zip(places, assignment.arrays.values(), strict=True):
            self._arena.view(start, size, np.float32)[:] = array.reshape(-1)
        self._assignment = {"arrays": places, "bytes": at}

    def answers(self, units: Iterable[Unit]) -> Iterator[UnitAnswer]:
        """The units' answers, in any order. The array of an answer is used again once the next is asked for.

        Raises ClientFailed, what else was raised in a worker, and ManentError where a worker died.
        """
        jobs = ({"unit": vars(unit)} for unit in units)
        for job, reply, worker, slot in self._run(jobs):
            unit = job["unit"]
            total = None
            if reply["size"] is not None:
                dtype = self._plan.stacks[unit["sum"]].dtype
                total = self._results[worker].view(8 * self._largest * slot, reply["size"], dtype)
            yield UnitAnswer(
                Partial(unit["level"], unit["index"], total),
                tuple(reply["answered"]),
                tuple(reply["lost"]),
                reply["sent_to"],
                tuple(reply["losses"]),
                tuple(ClientFailed(*facts) for facts in reply["failures"]),
            )

    def measure(self, model: Array, clients: list[int]) -> list[dict[str, float]]:
        """The metrics of a model on each client's own test part, in order."""
        self.publish(Assignment("measure", {"model": model}))
        size = max(1, len(clients) // (8 * len(self._pipes)))
        parts = [clients[i : i + size] for i in range(0, len(clients), size)]
        found = {tuple(job["measure"]): reply["measured"] for job, reply, _, _ in self._run({"measure": p} for p in parts)}
        return [metrics for part in parts for metrics in found[tuple(part)]]

    def _run(self, jobs: Iterator[Message]) -> Iterator[tuple[Message, Message, int, int]]:
        waiting: list[deque[tuple[Message, int]]] = [deque() for _ in self._pipes]
        free = [deque(range(AHEAD)) for _ in self._pipes]
        for _ in range(AHEAD):
            for worker in range(len(self._pipes)):
                self._give(worker, jobs, waiting, free)
        while any(waiting):
            busy = [pipe for pipe, jobs_ in zip(self._pipes, waiting, strict=True) if jobs_]
            for pipe in connection.wait(busy):
                worker = self._pipes.index(pipe)  # type: ignore[arg-type]
                reply = self._receive(worker)
                job, slot = waiting[worker].popleft()
                if "failed" in reply:
                    raise ClientFailed(*reply["failed"])
                if "raised" in reply:
                    raise _raised(worker, *reply["raised"])
                yield job, reply, worker, slot
                free[worker].append(slot)
                self._give(worker, jobs, waiting, free)

    def _give(
        self, worker: int, jobs: Iterator[Message], waiting: list[deque[tuple[Message, int]]], free: list[deque[int]]
    ) -> None:
        job = next(jobs, None)
        if job is None:
            return
        slot = free[worker].popleft()
        self._pipes[worker].send_bytes(json.dumps({**job, **self._assignment, "slot": slot}).encode())
        waiting[worker].append((job, slot))

    def _receive(self, worker: int) -> Message:
        try:
            reply: Message = json.loads(self._pipes[worker].recv_bytes())
        except (EOFError, ConnectionResetError):
            raise ManentError(
                f"Worker {worker} died. It may have been killed for want of memory; use fewer workers, or resume the run."
            ) from None
        return reply

    def close(self) -> None:
        """End the workers and free the shared memory."""
        for pipe in self._pipes:
            pipe.close()
        for pid in self._pids:
            os.waitpid(pid, 0)
        self._pids = []
        for arena in (self._arena, *self._results):
            arena.close()

    def terminate(self) -> None:
        """End the workers at once, whatever they are doing."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        self.close()


def _raised(worker: int, kind: str, text: str, trace: str) -> ManentError:
    """What was raised in a worker: an error of manent's own as it was, any other as a ManentError with its traceback."""
    if kind in ERRORS:
        return ERRORS[kind](text)
    return ManentError(f"Worker {worker} raised {kind}: {text}\n{trace}")


def _facts(error: ClientFailed) -> tuple[str, int, str, str, str | None]:
    return error.client, error.round, error.stage, error.reason, error.folder


def _one_thread() -> None:
    """Threads of torch do not survive a fork; and one thread a worker is also the fastest."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
