"""Connections that keep the server waiting: each has seconds to say what it wants, and only so many may take them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

SPEAKING = 20.0
"""Seconds within which the head of a request arrives whole: after the connection was made, or after the last answer."""
MOST_SILENT = 4096
"""Connections that have not yet sent a whole head, at most: the oldest of more is closed."""
MOST_CONNECTIONS = 16_384
"""With so many connections, further requests are answered with 503."""
MOST_HEAD = 32 << 10
"""Bytes of a request's line and headers, at most."""
WAITING = 1 << 15
"""Bytes of a body in a connection, beyond which no more are read or made: with hundreds of them, that is most of the memory."""


class Impatient(H11Protocol):
    """HTTP/1.1 for clients that may be hostile.

    uvicorn closes a connection that is silent after an answer. This one closes also those whose request never begins or never
    ends: a byte now and then is no sign of life. How long a body may take, and how large it may be, `requests` says.
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
        transport.set_write_buffer_limits(WAITING)
        if hasattr(transport, "set_read_buffer_limits"):  # those of TLS have it
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
        self._stop()
        _silent(self.server_state).pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            _silent(self.server_state).pop(self, None)
            self._stop()

    def on_response_complete(self) -> None:
        self._wait()  # for the next head, or for the rest of a body that nobody reads any more
        super().on_response_complete()  # which may begin with a request that has arrived already
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
    """A server's connections without a whole request yet, in the order in which they came."""
    found: dict[Impatient, None] = vars(state).setdefault("silent", {})
    return found


def allow_descriptors() -> None:
    """Let the process have as many connections as it takes; a system that does not tell is left as it is."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(4 * MOST_CONNECTIONS, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
