"""Steps of many threads, kept by few commits: what a commit waits for, the disk above all, is waited for once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from manent.core.errors import ManentError, ProtocolAbort
from manent.core.store import Store, Transaction

Found = TypeVar("Found")
Step = Callable[[Transaction, ExitStack], Found]
MOST = 256
"""Steps of one transaction."""


class _Waiting:
    def __init__(self, step: Step[Any]) -> None:
        self.step = step
        self.event = threading.Event()
        self.over = False
        self.found: Any = None
        self.error: BaseException | None = None


class Together:
    """Runs steps as if each had a transaction of its own, one after the other; it is durable when `run` returns.

    Whoever comes first opens a transaction for all who have come meanwhile. A step that raises a ManentError must have changed
    nothing: the others are kept. Any other error undoes all steps of the transaction, and each of them fails.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._queue: list[_Waiting] = []
        self._led = False

    def run(self, step: Step[Found]) -> Found:
        """What the step returns, once it is kept. Raises what the step raises, or what the store does.

        Args:
            step: called with the transaction, in whatever thread, and with a stack: what it enters there is left when the
                transaction has ended, with the error where it was undone.
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
        """Carry out what waits, this thread's own step among it; whoever has come meanwhile leads next."""
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
        except ManentError as error:
            for waiting in batch:
                waiting.error = error
        except BaseException as error:  # each who waits is told
            for waiting in batch:
                waiting.error = ProtocolAbort(f"Nothing of this was kept, as a step beside it failed: {error!r}. Try again.")
            batch[0].error = error if isinstance(error, Exception) else batch[0].error
            if not isinstance(error, Exception):
                raise
