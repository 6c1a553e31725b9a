"""Start the server, and end it without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from ..api import load
from ..config import EngineName
from ..errors import UserError, one_line
from .app import create_app
from .connections import connection_class
from .guard import AccessLog
from .limits import MAX_HEADER_BYTES, Limits
from .service import Served, Service

TOKEN_VARIABLE = "SERESNEXT_TOKEN"
"""Environment variable with the bearer token that clients must send."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NAMED = re.compile(rf"({_NAME.pattern})=(.+)", re.DOTALL)


def serve(
    models: Sequence[str],
    limits: Limits,
    *,
    host: str,
    port: int,
    engine: EngineName = "torch",
    device: str = "auto",
    threads: int = 0,
    token_file: Path | None = None,
    access_log: bool = False,
) -> None:
    """Serve the models until SIGTERM or SIGINT; then answer what has come, and return.

    Each model is a path, or NAME=PATH. Raises UserError for a model that cannot be loaded, an
    address that cannot be listened on, an unreadable token.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    token = _token(token_file)
    paths = _names(models)
    with _listening(host, port) as listener:
        served = [
            Served(name, load(path, engine=engine, device=device, threads=threads))
            for name, path in paths.items()
        ]
        service = Service(served, limits, token)
        try:
            for one in served:
                print(f"{one.name}: {one.model.runtime.name} on {one.model.runtime.device}")
            address = f"[{host}]" if ":" in host else host
            print(f"listening on http://{address}:{listener.getsockname()[1]}", flush=True)
            asyncio.run(_run(service, listener, _print_record if access_log else None))
        finally:
            service.close()


async def _run(service: Service, listener: socket.socket, log: AccessLog | None) -> None:
    config = uvicorn.Config(
        create_app(service, log),
        http=connection_class(service.limits),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # of uvicorn's own; what clients send wrongly is in the metrics
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(service.limits.client_deadline) + 1,
        timeout_graceful_shutdown=int(service.limits.client_deadline) + 1,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    server = _Server(config, service)
    connections = server.server_state.connections
    service.metrics.gauge("connections", "Open connections.", lambda: len(connections))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.end)
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's server, which ends when all that has come is answered, with exit code 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # uvicorn's own handlers would raise the signal again at the end

    def end(self) -> None:
        """Answer what has come and refuse what comes; called again, end at once."""
        self.force_exit = self.should_exit = self._service.draining
        self._service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether to close all connections now; asked ten times a second."""
        drained = self._service.draining and not self._service.working
        return await super().on_tick(counter) or drained


def _names(models: Sequence[str]) -> dict[str, Path]:
    """Name -> path. Raises UserError for a name that is used twice."""
    paths: dict[str, Path] = {}
    for text in models:
        named = _NAMED.fullmatch(text)
        if named and not Path(text).exists():
            name, path = named[1], Path(named[2])
        else:
            path = Path(text)
            name = path.resolve().name if path.is_dir() else path.stem
        if not _NAME.fullmatch(name):
            raise UserError(f"{path}: its name does not fit into an address; write NAME={path}")
        if name in paths:
            raise UserError(f"two models are called {name!r}; name them: {name}={path} NAME=PATH")
        paths[name] = path
    if not paths:
        raise UserError("no model given; name a run, model folder, artifact or weights file")
    return paths


def _token(file: Path | None) -> str:
    """The bearer token from a file or the environment; empty if there is none."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--token-file {file} cannot be read: {one_line(error)}") from None
    if not token:
        raise UserError(f"--token-file {file} is empty")
    return token


def _listening(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises UserError."""
    listener = None
    try:
        if not 0 <= port < 1 << 16:
            raise OSError(f"no port {port}; expected 0 to 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)  # with one, asyncio sets TCP_NODELAY
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return listener
    except OSError as error:
        if listener:
            listener.close()
        raise UserError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose with --host "
            "and --port"
        ) from None


def _print_record(record: dict[str, Any]) -> None:
    """One line of the access log. A reader that has gone does not end the server."""
    with contextlib.suppress(OSError, ValueError):
        print(json.dumps(record), flush=True)
