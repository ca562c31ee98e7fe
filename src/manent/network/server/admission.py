"""How many requests a server process works on at a time, whatever comes: so its memory does not grow with the number of sites."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from manent.network import protocol

MOST = 4096
"""Requests in work or waiting. Whoever comes beyond is to come again; sites do so by themselves, ever more rarely."""
MOST_HELD = 3072
"""Of these, long polls that are held. Further ones are answered at once, and say when to ask again."""
AGAIN = 4
"""Seconds after which a long poll that was not held is to be repeated, on average; at least."""
POLLS = 40
"""A second, of all sites together: of many, each asks more rarely."""
_EXEMPT = ("/health", "/ready", "/metrics")


class Admitted:
    """Lets so many requests in at a time; others get status 503 before their body is read, and their connection is closed."""

    def __init__(self, app: ASGIApp, most: int = MOST) -> None:
        self._app, self._most, self._now = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _EXEMPT:
            await self._app(scope, receive, send)
            return
        if self._now >= self._most:
            await _refuse(send)
            return
        self._now += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._now -= 1


async def _refuse(send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (protocol.HEADER.lower().encode(), str(protocol.VERSION).encode()),
        (b"retry-after", str(AGAIN).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"error":"The server has much to do; come again."}'})
