"""Hostile and unlucky clients, on sockets of a real server, and the end of the server."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import selectors
import socket
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.networks import random_images
from seresnext.serve.limits import Refusal
from seresnext.serve.service import _unless_left
from serve.servers import Server, answer, encoded, serving, tensor

DEADLINE = 1.0
"""Seconds that clients of this server have."""
BATCH, QUEUE, CONNECTIONS = 8, 16, 40
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
IMAGE = encoded(random_images(1, 40)[0])
SLOW = "/predict?model=slow"


@pytest.fixture(scope="module")
def strict(tiny_onnx: Path, slow_onnx: Path) -> Iterator[Server]:
    """A server with narrow limits."""
    limits = {"max-batch": BATCH, "queue": QUEUE, "connections": CONNECTIONS, "max-body": 1}
    flags = [word for name, value in limits.items() for word in (f"--{name}", value)]
    with serving(tiny_onnx, slow_onnx, *flags, "--client-deadline", DEADLINE) as server:
        yield server


@pytest.fixture(autouse=True)
def others_are_served(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the server answers within 5 s."""
    yield
    if "strict" in request.fixturenames:
        server = request.getfixturevalue("strict")
        start = time.monotonic()
        until(lambda: server.call("POST", "/predict", IMAGE)[0] == 200)
        assert time.monotonic() < start + 5


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def sent(server: Server, data: bytes) -> tuple[int, bytes, float]:
    """Status (0 for none), body, and how long it took until the server closed the connection."""
    start = time.monotonic()
    with server.connect() as connection:
        connection.sendall(data)
        received = answer(connection)
    seconds = time.monotonic() - start
    if not received:
        return 0, b"", seconds
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), body, seconds


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true, which must happen within 10 s."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class TestSlowClients:
    @pytest.mark.parametrize(
        ("start", "status"),
        [
            (b"", 0),
            (b"GET /v2 HT", 408),
            (b"GET /v2 HTTP/1.1\r\nHost: x\r\n", 408),
            (post("/predict", b"\x89PNG", length=100), 408),
            (
                CHUNKED + b"9\r\nab",
                408,
            ),
        ],
    )
    def test_what_does_not_come(self, strict: Server, start: bytes, status: int) -> None:
        found, _, seconds = sent(strict, start)
        assert found == status
        assert DEADLINE * 0.9 < seconds < DEADLINE + 2

    def test_what_comes_byte_by_byte(self, strict: Server) -> None:
        start = time.monotonic()
        with strict.connect() as connection:
            connection.sendall(b"GET /v2 HTTP/1.1\r\n")
            with contextlib.suppress(OSError):  # the server has closed the connection
                while time.monotonic() < start + 20:
                    connection.sendall(b"a: b\r\n")
                    time.sleep(0.1)
        assert time.monotonic() < start + DEADLINE + 3

    @pytest.mark.slow
    def test_an_answer_that_is_not_taken(self, strict: Server) -> None:
        before, memory = strict.metric("seresnext_connections"), strict.peak_memory()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", strict.port))
            connection.settimeout(2 * DEADLINE)
            with contextlib.suppress(OSError):  # reset, or no more is taken from us
                while True:
                    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
            until(lambda: strict.metric("seresnext_connections") <= before)
        assert strict.peak_memory() < memory + 50e6


class TestSizes:
    def test_a_declared_body_is_refused_before_it_is_sent(self, strict: Server) -> None:
        for more in ("", "Expect: 100-continue"):
            headers = [more] if more else []
            status, body, _ = sent(strict, post("/predict", b"", *headers, length=10**12))
            assert (status, "larger than 1 MB" in json.loads(body)["error"]) == (413, True)

    def test_a_body_that_is_sent_is_not_answered_by_a_reset(self, strict: Server) -> None:
        assert sent(strict, post("/predict", b"\0" * 5_000_000))[0] == 413

    def test_a_body_of_no_declared_length(self, strict: Server) -> None:
        memory = strict.peak_memory()
        chunk = b"10000\r\n" + b"\0" * 0x10000 + b"\r\n"
        assert sent(strict, CHUNKED + chunk * 100)[0] == 413
        assert strict.peak_memory() < memory + 20e6

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_a_compressed_bomb(self, strict: Server, encoding: str) -> None:
        bomb = b"\0" * 100_000_000
        data = gzip.compress(bomb, 1) if encoding == "gzip" else zlib.compress(bomb, 1)
        small = zlib.compress(zlib.compress(b"\0" * 50_000_000))  # one layer only is removed
        memory = strict.peak_memory()
        assert len(data) < 500_000
        request = post("/predict", data, f"Content-Encoding: {encoding}")
        assert sent(strict, request)[0] == 413
        assert strict.call("POST", "/predict", small, content_encoding="deflate")[0] == 400
        assert strict.peak_memory() < memory + 20e6

    @pytest.mark.parametrize(
        ("body", "encoding", "status"),
        [
            (b"abc", "gzip", 400),
            (gzip.compress(IMAGE)[:-9], "gzip", 400),
            (gzip.compress(IMAGE) + b"more", "gzip", 400),
            (IMAGE, "br", 415),
            (gzip.compress(IMAGE), "GZIP", 200),
        ],
    )
    def test_compressed_bodies(
        self, strict: Server, body: bytes, encoding: str, status: int
    ) -> None:
        assert strict.call("POST", "/predict", body, content_encoding=encoding)[0] == status

    @pytest.mark.parametrize(
        "data",
        [
            b"\0" * 100 + b"\r\n\r\n",
            b"GET /v2\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 10_000,
            b"GET /" + b"a" * 100_000,
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            CHUNKED + b"zz\r\n",
        ],
    )
    def test_what_is_not_http(self, strict: Server, data: bytes) -> None:
        assert sent(strict, data)[0] == 400

    def test_a_body_that_is_longer_than_said(self, strict: Server) -> None:
        data = post("/predict", IMAGE + b"\0\0\r\n\r\n", length=len(IMAGE))
        with strict.connect() as connection:
            connection.sendall(data)
            received = answer(connection)
        assert received.startswith(b"HTTP/1.1 200")
        assert received.count(b"HTTP/1.1 400") == 1  # what follows is no request


def flood(server: Server, request: bytes) -> Counter[str]:
    """Send a request on each of 200 connections; return the statuses."""
    selector, answers = selectors.DefaultSelector(), Counter[str]()
    for connection in [server.connect() for _ in range(200)]:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, bytearray())
        with contextlib.suppress(OSError):
            connection.sendall(request)
    while selector.get_map():
        for key, _ in selector.select(timeout=60):
            connection, received = key.fileobj, key.data
            assert isinstance(connection, socket.socket)
            try:
                data = connection.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            received += data
            if not data:
                selector.unregister(connection)
                connection.close()
                status = received[9:12].decode() or "closed"
                answers[status] += 1
                assert status != "503" or b"retry-after: 1" in received.lower()
    return answers


@pytest.mark.slow
def test_a_flood(strict: Server) -> None:
    """Bounded memory, an answer or a closed connection for each, and others are served again."""
    request = post(SLOW, IMAGE, "Connection: close")
    memory = strict.peak_memory()
    answers = flood(strict, request) + flood(strict, request)
    assert set(answers) <= {"200", "503", "closed"}
    assert answers["200"] >= 2 * QUEUE
    assert answers["503"] > 0
    assert strict.peak_memory() < memory + 300e6  # of which a batch takes 110 MB


def test_clients_that_leave_are_not_computed_for(strict: Server) -> None:
    """They leave while the second batch of another client is computed."""
    computed = 'seresnext_images_total{model="slow"}'
    left = 'seresnext_errors_total{kind="client_left"}'
    images, leavers = strict.metric(computed), strict.metric(left)
    first_images, others = BATCH + 4, 4
    body = json.dumps(tensor(np.zeros((first_images, 2, 2, 3), np.uint8))).encode()
    with strict.connect() as first:
        first.sendall(post("/v2/models/slow/infer", body, "Connection: close"))
        until(lambda: strict.metric(computed) == images + BATCH)
        many = [strict.connect() for _ in range(others)]
        for connection in many:
            connection.sendall(post(SLOW, IMAGE))
        until(lambda: strict.metric("seresnext_queue_images") == first_images + others)
        for connection in many:
            connection.close()
        assert answer(first).startswith(b"HTTP/1.1 200")
    until(lambda: strict.metric("seresnext_queue_images") == 0)
    assert strict.metric(left) == leavers + others
    assert strict.metric(computed) == images + first_images


def test_the_deadline() -> None:
    class Request:
        async def receive(self) -> Any:
            await asyncio.sleep(3600)

    with pytest.raises(Refusal) as error:
        asyncio.run(_unless_left(Request(), asyncio.sleep(3600), 0.01))
    assert (error.value.status, error.value.headers) == (504, {"Retry-After": "1"})


def test_token_access_log_and_end(slow_onnx: Path) -> None:
    """SIGTERM: not ready, no new work, an answer to what has come, exit code 0."""
    key = {"authorization": "Bearer s3cret"}
    with serving(slow_onnx, "--access-log", SERESNEXT_TOKEN=" s3cret\n") as server:
        for path in ("/v2", "/metrics", "/v2/models/slow", "/nowhere"):
            for wrong in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "s3cret"}):
                status, headers, _ = server.call("GET", path, **wrong)
                assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert server.call("POST", "/predict", b"\0" * 100_000)[0] == 401
        assert server.call("GET", "/v2", **key)[0] == 200
        assert server.call("GET", "/")[0] == 200

        with server.connect() as working:
            body = json.dumps(tensor(np.zeros((24, 2, 2, 3), np.uint8))).encode()
            request = post("/v2/models/slow/infer", body, "Authorization: Bearer s3cret")
            working.sendall(request)
            until(lambda: b"queue_images 24" in server.call("GET", "/metrics", **key)[2])
            server.process.terminate()
            until(lambda: server.call("GET", "/v2/health/ready")[0] == 503)
            assert server.call("GET", "/v2/health/live")[0] == 200
            status, headers, _ = server.call("POST", "/predict", IMAGE, **key)
            assert (status, headers["retry-after"]) == (503, "1")
            assert answer(working).startswith(b"HTTP/1.1 200")
        out, errors = server.process.communicate(timeout=60)
    assert (server.process.returncode, errors) == (0, "")
    records = [json.loads(text) for text in out.splitlines()]
    (done,) = [r for r in records if r["path"] == "/v2/models/slow/infer"]
    assert (done["method"], done["status"], done["bytes_in"]) == ("POST", 200, len(body))
    assert done["ms"] > 0
    assert "draining" in {r.get("error") for r in records if r["status"] == 503}
