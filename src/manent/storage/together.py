"""Steps of many threads in few commits. A commit waits for the disk, so many steps wait for it once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from manent.core.errors import ManentError
from manent.core.store import Store, Transaction

Found = TypeVar("Found")
Step = Callable[[Transaction, ExitStack], Found]
MOST = 256
"""Most steps of one transaction."""


class _Waiting:
    """A step that waits to be carried out."""

    def __init__(self, step: Step[Any]) -> None:
        self.step = step
        self.event = threading.Event()
        self.over = False
        self.found: Any = None
        self.error: BaseException | None = None


class Together:
    """Runs steps as if each had a transaction of its own, one after the other. A step is durable when `run` returns.

    The thread that comes first opens a transaction for all steps that have arrived meanwhile. A step that raises a ManentError
    must have changed nothing: the other steps are kept. Any other error undoes all steps of the transaction, and each of them
    fails.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._queue: list[_Waiting] = []
        self._led = False

    def run(self, step: Step[Found]) -> Found:
        """What the step returns, once it is stored. Raises what the step raises, or what the store raises.

        Args:
            step: called with the transaction, in any of the threads, and with a stack. What the step enters into the stack is
                left when the transaction has ended; with the error, if it was undone.
        """
        own = _Waiting(step)
        with self._lock:
            self._queue.append(own)
            leads, self._led = not self._led, True
        if not leads:
            own.event.wait()
        if not own.over:
            self._lead()
        if own.error is not None:
            raise own.error
        found: Found = own.found
        return found

    def _lead(self) -> None:
        """Carry out the steps that wait, this thread's own among them. Then the next that waits leads."""
        with self._lock:
            batch, self._queue = self._queue[:MOST], self._queue[MOST:]
        try:
            self._carry_out(batch)
        finally:
            with self._lock:
                following = self._queue[0] if self._queue else None
                self._led = following is not None
            for waiting in batch:
                waiting.over = True
                waiting.event.set()
            if following is not None:
                following.event.set()

    def _carry_out(self, batch: list[_Waiting]) -> None:
        try:
            with ExitStack() as until, self.store.transaction() as transaction:
                for waiting in batch:
                    try:
                        waiting.found = waiting.step(transaction, until)
                    except ManentError as error:
                        waiting.error = error
        except BaseException as error:  # noqa: BLE001 - raised in every thread that waits
            for waiting in batch:
                waiting.error = error
