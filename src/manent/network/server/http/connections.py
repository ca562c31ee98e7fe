"""Connections of clients that may be hostile: each has limited time to send its request, and only so many may take it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

SPEAKING = 20.0
"""Seconds within which the whole head of a request must arrive, counted from the connection or from the last answer."""
MOST_SILENT = 4096
"""Most connections that have not yet sent a whole head. With one more, the oldest is closed."""
MOST_CONNECTIONS = 16_384
"""With so many connections, further requests get status 503."""
MOST_HEAD = 32 << 10
"""Most bytes of a request's line and headers."""
WAITING = 1 << 15
"""Most bytes of a body that wait in one connection, either way. With hundreds of connections, that is most of the memory."""


class Impatient(H11Protocol):
    """HTTP/1.1 for clients that may be hostile.

    uvicorn closes a connection that is silent after an answer. This class also closes a connection whose request never begins or
    never ends; a byte now and then does not keep it open. How long a body may take, and how large it may be, is limited in
    `requests`.
    """

    speaking, most_silent = SPEAKING, MOST_SILENT

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit. If there are too many connections without a whole request head, close the oldest."""
        transport.set_write_buffer_limits(WAITING)
        if hasattr(transport, "set_read_buffer_limits"):  # only TLS transports have it
            transport.set_read_buffer_limits(WAITING)
        super().connection_made(transport)
        self._wait()
        silent = _silent(self.server_state)
        silent[self] = None
        if len(silent) > self.most_silent:
            oldest = next(iter(silent))
            del silent[oldest]
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop()
        _silent(self.server_state).pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """End the time limit once the head of a request is there."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            _silent(self.server_state).pop(self, None)
            self._stop()

    def on_response_complete(self) -> None:
        """Start the time limit for the next request."""
        self._wait()  # for the next head, or for the rest of a body that nobody reads any more
        super().on_response_complete()  # it may begin the next request, if that has arrived already
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()

    def _wait(self) -> None:
        self._stop()
        self._late = self.loop.call_later(self.speaking, self.transport.abort)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _silent(state: ServerState) -> dict[Impatient, None]:
    """A server's connections that have not sent a whole request head yet, oldest first."""
    found: dict[Impatient, None] = vars(state).setdefault("silent", {})
    return found


def allow_descriptors() -> None:
    """Let the process open as many files as its connections need. Does nothing on a system that does not support it."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(4 * MOST_CONNECTIONS, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
