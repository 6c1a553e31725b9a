"""One connection: deadlines for the client, and a bound on their number.

uvicorn has no deadline for a slow header, and none for a client that does not take its answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import RETRY, Limits

_TOO_MANY = JSONResponse(
    {"error": "too many connections; try again"}, 503, {**RETRY, "Connection": "close"}
)
_SLOW_HEADER = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(H11Protocol):
    """HTTP/1.1 on a socket. Between requests and during a header one timer runs, during a request
    none (the application has its own deadlines), and one more while an answer is not taken."""

    limits: Limits
    """Set by `connection_class`."""
    _header: asyncio.TimerHandle | None = None
    _answer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        most = self.limits.connections
        if len(self.connections) > 2 * most:
            transport.abort()
        elif len(self.connections) > most:
            self.app = _TOO_MANY
        self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._header, self._answer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._header and self.cycle and not self.cycle.response_complete:
            self._header.cancel()
            self._header = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request was already there
            self._expect_header()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer = self.loop.call_later(self.limits.client_deadline, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answer:
            self._answer.cancel()

    def _expect_header(self) -> None:
        if self._header:
            self._header.cancel()
        self._header = self.loop.call_later(self.limits.client_deadline, self._no_header)

    def _no_header(self) -> None:
        if self.transport.get_write_buffer_size():  # of the last answer, which is not taken
            self.transport.abort()
            return
        if self.conn.trailing_data[0]:  # the start of a header
            self.transport.write(_SLOW_HEADER)
        self.transport.close()


def connection_class(limits: Limits) -> type[Any]:
    """Return the class of connections that keep to `limits`."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
