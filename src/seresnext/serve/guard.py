"""What happens to every request: the token, errors as JSON, counters, the access log."""

from __future__ import annotations

import asyncio
import hmac
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .body import ClientLeft
from .limits import Refusal
from .service import Service

AccessLog = Callable[[dict[str, Any]], None]
"""Takes the record of one request."""

_OPEN = ("/", "/openapi.json", "/v2/health/live", "/v2/health/ready")
_OPEN_FOLDER = "/assets/"
"""With `_OPEN`: what needs no token, because it says nothing of the models."""
_LINGER = 0.5
"""Seconds in which a refused client can finish sending, so that it sees the answer and no reset."""


@dataclass
class _Exchange:
    """One request and its answer, as they go by."""

    receive_: Receive
    send_: Send
    received: int = 0
    sent: int = 0
    status: int = 0
    body_complete: bool = False
    kind: str = ""
    """Of the error; empty where there was none."""

    async def receive(self) -> Message:
        message = await self.receive_()
        self.received += len(message.get("body", b""))
        self.body_complete |= not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        self.sent += len(message.get("body", b""))
        await self.send_(message)


class Guard:
    """ASGI middleware around all paths."""

    def __init__(self, app: ASGIApp, service: Service, log: AccessLog | None) -> None:
        self._app, self._service, self._log = app, service, log
        self._token = f"Bearer {service.token}".encode() if service.token else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.monotonic()
        exchange = _Exchange(receive, send)
        try:
            self._check_token(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except Refusal as refusal:
            await self._refuse(scope, exchange, refusal)
        except ClientLeft:
            exchange.kind, exchange.status = "client_left", 499
        except Exception:  # a bug: told to whoever runs the server, not to clients
            traceback.print_exc()
            if exchange.status:  # the answer has begun; the server closes the connection
                raise
            await self._refuse(scope, exchange, Refusal(500, "internal error", "internal"))
        finally:
            self._count(scope, exchange, time.monotonic() - start)

    def _check_token(self, scope: Scope) -> None:
        path = scope["path"]
        if not self._token or path in _OPEN or path.startswith(_OPEN_FOLDER):
            return
        given = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self._token):
            headers = {"WWW-Authenticate": "Bearer"}
            raise Refusal(401, "a bearer token is needed", "unauthorized", headers=headers)

    async def _refuse(self, scope: Scope, exchange: _Exchange, refusal: Refusal) -> None:
        """Send an error. The rest of the body is not read but for a moment of discarding it."""
        exchange.kind = refusal.kind
        headers = Headers(scope=scope)
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        unread = has_body and not exchange.body_complete
        close = {"Connection": "close"} if unread else {}
        answer = JSONResponse(
            {"error": refusal.message}, refusal.status, {**refusal.headers, **close}
        )
        begin = {"status": refusal.status, "headers": answer.raw_headers}
        await exchange.send({"type": "http.response.start", **begin})
        await exchange.send(
            {"type": "http.response.body", "body": answer.body, "more_body": unread}
        )
        if unread:
            if "expect" not in headers:  # such a client waits for the answer and sends nothing
                await self._discard(exchange)
            await exchange.send({"type": "http.response.body"})

    async def _discard(self, exchange: _Exchange) -> None:
        try:
            async with asyncio.timeout(_LINGER):
                while not exchange.body_complete:
                    await exchange.receive()
        except TimeoutError:
            pass

    def _count(self, scope: Scope, exchange: _Exchange, seconds: float) -> None:
        endpoint = scope.get("endpoint")
        route = getattr(endpoint, "__name__", "other")
        metrics = self._service.metrics
        metrics.add("requests_total", route=route, status=str(exchange.status))
        metrics.add("request_seconds", seconds, route=route)
        if exchange.kind:
            metrics.add("errors_total", kind=exchange.kind)
        if self._log:
            self._log(
                {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "client": (scope["client"] or ("",))[0],
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": exchange.status,
                    "ms": round(1e3 * seconds, 2),
                    "bytes_in": exchange.received,
                    "bytes_out": exchange.sent,
                    **({"error": exchange.kind} if exchange.kind else {}),
                }
            )
