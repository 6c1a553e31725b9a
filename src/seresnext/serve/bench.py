"""Load on the server: throughput and latency, beside the model without one and other servers.

Every server does the same for an image: read the request, decode, preprocess, compute, answer with
class names. Its clients are threads of this process, which is idle otherwise.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import io
import itertools
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..api import Model, load
from ..config import EngineName
from ..data.decode import decode_image
from ..data.preprocess import preprocess
from ..errors import UserError
from ..machine import describe_cpu
from .limits import Limits

OURS = "seresnext serve"
LITSERVE = "LitServe"
_START = 120.0
"""Seconds that a server may take until it answers."""
_WARM_UP = 1.0
"""Seconds of load before the first answer that counts."""
_PHOTO = (375, 500, 3)
"""The image that is sent, a JPEG of about 60 kB: the median size in ImageNet."""
_BOUNDARY = "seresnext-bench"


@dataclass
class LoadResult:
    """One way of asking, and what came of it."""

    way: str
    clients: int
    """Requests at a time; 0 where there is no server."""
    rates: list[float] = field(default_factory=list)
    """Images per second of each turn."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each answer."""
    errors: int = 0
    """Requests that were not answered with 200."""

    @property
    def images_per_second(self) -> float:
        """Of the median turn, which other load on the machine affects least."""
        return float(np.median(self.rates))

    def percentile_ms(self, share: float) -> float | None:
        """Milliseconds within which this share of the answers came; None without any."""
        return 1e3 * float(np.percentile(self.latencies, share)) if self.latencies else None

    def to_dict(self, limit: LoadResult) -> dict[str, Any]:
        """As JSON types; `ratio` is to the throughput of `limit`."""
        return {
            "way": self.way,
            "clients": self.clients,
            "images_per_second": self.images_per_second,
            "ratio": self.images_per_second / limit.images_per_second,
            "p50_ms": self.percentile_ms(50),
            "p99_ms": self.percentile_ms(99),
            "errors": self.errors,
        }


@dataclass(frozen=True)
class _Given:
    """The model that each way loads for itself."""

    path: Path
    engine: EngineName
    device: str
    threads: int

    def load(self) -> Model:
        return load(self.path, engine=self.engine, device=self.device, threads=self.threads)


def bench_serve(
    model: Path,
    *,
    clients: Sequence[int] = (1, 4, 16),
    rounds: int = 3,
    seconds: float = 5.0,
    engine: EngineName = "torch",
    device: str = "auto",
    threads: int = 0,
) -> list[LoadResult]:
    """Measure `model` called in loops, behind `seresnext serve` and behind other servers.

    The first result is the limit: the runtime called with ready-made pixels; the second adds
    decoding. The others are servers, each at so many requests at a time as `clients` says: ours,
    plain Starlette without batches, and LitServe if it is installed. Each has a process of its
    own. They take turns of `seconds`, `rounds` times, so that other load on the machine affects
    all of them. Raises UserError.
    """
    if not clients or min(rounds, *clients) < 1 or not 0 < seconds < math.inf or threads < 0:
        raise UserError("--clients, --rounds and --seconds: expected positive numbers")
    if max(clients) > Limits.queue:
        raise UserError(f"--clients: expected at most {Limits.queue}, the queue of each server")
    given = _Given(model, engine, device, threads)
    photo = _photo()
    with contextlib.ExitStack() as stack:
        loaded = stack.enter_context(given.load())
        requests: dict[str, _Request] = {}
        for way, serve in _servers(given).items():
            body, kind = _form(photo) if way == LITSERVE else (photo, "image/jpeg")
            requests[way] = _Request(stack.enter_context(serve), body, kind)
            _ask(requests[way], _WARM_UP, LoadResult(way, max(clients)))
        loops = [
            (LoadResult("runtime, pixels ready", 0), _compute(loaded, photo)),
            (LoadResult("model, from JPEG", 0), _predict(loaded, photo)),
        ]
        loads = [LoadResult(way, n) for way in requests for n in clients]
        for _ in range(rounds):
            for result, batches in loops:
                _repeat(batches, seconds, result)
            for result in loads:
                _ask(requests[result.way], seconds, result)
    return [*(result for result, _ in loops), *loads]


def print_results(results: Sequence[LoadResult]) -> None:
    """A table; ratios are to the first row's throughput."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, title=describe_cpu(), title_justify="left", pad_edge=False)
    table.add_column("")
    for name in "clients,images/s,ratio,p50 ms,p99 ms,errors".split(","):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        p50, p99 = (
            "-" if value is None else f"{value:.1f}"
            for value in (result.percentile_ms(50), result.percentile_ms(99))
        )
        ratio = result.images_per_second / results[0].images_per_second
        rate, clients = f"{result.images_per_second:.1f}", str(result.clients or "-")
        table.add_row(result.way, clients, rate, f"{ratio:.2f}", p50, p99, str(result.errors))
    Console().print(table)


# Loops -----------------------------------------------------------------------------------------


def _compute(model: Model, photo: bytes) -> Iterator[int]:
    """Yield the size of each batch that the runtime computed."""
    pixels = preprocess(decode_image(photo, max_pixels=_PHOTO[0] * _PHOTO[1]), model.input)
    batch = np.repeat(pixels[None], Limits.max_batch, axis=0)
    while True:
        model.logits(batch)
        yield len(batch)


def _predict(model: Model, photo: bytes) -> Iterator[int]:
    """The same from files; the next batch is decoded while one is computed."""
    answers = model.predict_each(itertools.repeat(photo), batch_size=Limits.max_batch)
    while True:
        yield len(list(itertools.islice(answers, Limits.max_batch)))


def _repeat(batches: Iterator[int], seconds: float, result: LoadResult) -> None:
    """Add to `result` the batches of so many seconds; the first one is warm-up."""
    next(batches)
    images, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        images += next(batches)
    result.rates.append(images / passed)


# Servers ---------------------------------------------------------------------------------------


def _servers(given: _Given) -> Mapping[str, AbstractContextManager[int]]:
    """Name of each server, and what runs it and yields its port."""
    plain = "Starlette, no batches"
    servers: dict[str, AbstractContextManager[int]]
    servers = {OURS: _ours(given), plain: _other(plain, _plain_server, given)}
    if importlib.util.find_spec("litserve"):
        servers[LITSERVE] = _other(LITSERVE, _lit_server, given)
    else:
        print("LitServe is not installed and not measured (pip install litserve)", file=sys.stderr)
    return servers


@contextlib.contextmanager
def _ours(given: _Given) -> Iterator[int]:
    port = _free_port()
    options = ("--engine", given.engine, "--device", given.device, "--threads", str(given.threads))
    command = [sys.executable, "-m", "seresnext", "serve", f"model={given.path}", *options]
    # Each server in a session of its own: Linux shares a busy machine's time among sessions.
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait(OURS, port, lambda: process.poll() is None)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextlib.contextmanager
def _other(name: str, target: Callable[[_Given, int], None], given: _Given) -> Iterator[int]:
    port = _free_port()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_in_own_group, args=(target, given, port))
    process.start()
    assert process.pid
    try:
        _wait(name, port, process.is_alive)
        yield port
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            process.join(10)
        process.kill()  # if it has no group yet


def _in_own_group(target: Callable[[_Given, int], None], given: _Given, port: int) -> None:
    """A new session; LitServe has processes of its own, which do not end with it."""
    os.setsid()
    target(given, port)


def _plain_server(given: _Given, port: int) -> None:
    """What one writes first: a handler that computes each request for itself."""
    loaded = given.load()
    lock = threading.Lock()  # a model is used from one thread at a time

    def answer(data: bytes) -> dict[str, Any]:
        with lock:
            return loaded.predict(data).to_dict()

    async def predict(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(answer, await request.body()))

    app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
    uvicorn.run(app, port=port, http="h11", log_level="critical")


def _lit_server(given: _Given, port: int) -> None:
    from .bench_litserve import run

    run(given.load, port)


# Clients ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    port: int
    body: bytes
    kind: str

    def send(self, connection: http.client.HTTPConnection) -> bool:
        """Whether the answer is 200; after a failure the connection is opened again."""
        try:
            connection.request("POST", "/predict", self.body, {"Content-Type": self.kind})
            answer = connection.getresponse()
            answer.read()
            return answer.status == 200
        except (OSError, http.client.HTTPException):
            connection.close()
            time.sleep(0.1)
            return False


def _ask(request: _Request, seconds: float, result: LoadResult) -> None:
    """Add to `result` what its clients, asking again and again, are answered in so many seconds."""
    start = time.perf_counter()

    def client() -> list[float | None]:
        """Seconds of each answer; None where it was an error."""
        connection = http.client.HTTPConnection("127.0.0.1", request.port, timeout=60)
        times: list[float | None] = []
        with contextlib.closing(connection):
            while (sent := time.perf_counter()) < start + seconds:
                good = request.send(connection)
                times.append(time.perf_counter() - sent if good else None)
        return times

    with ThreadPoolExecutor(result.clients) as pool:
        futures = [pool.submit(client) for _ in range(result.clients)]
        times = list(itertools.chain.from_iterable(future.result() for future in futures))
    answers = [passed for passed in times if passed is not None]
    result.rates.append(len(answers) / (time.perf_counter() - start))
    result.latencies += answers
    result.errors += len(times) - len(answers)


def _photo() -> bytes:
    """A JPEG with as much detail as a photo."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 32, 3), np.uint8)
    image = Image.fromarray(coarse).resize((_PHOTO[1], _PHOTO[0]), Image.Resampling.BICUBIC)
    noisy = np.asarray(image) + rng.normal(0, 8, _PHOTO)
    out = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def _form(photo: bytes) -> tuple[bytes, str]:
    """A multipart body with one file, which is how LitServe takes bytes; and its type."""
    head = 'Content-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    body = f"--{_BOUNDARY}\r\n{head}".encode() + photo + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return body, f"multipart/form-data; boundary={_BOUNDARY}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _wait(name: str, port: int, alive: Callable[[], bool]) -> None:
    """Wait until a server listens. Raises UserError."""
    end = time.monotonic() + _START
    while alive() and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise UserError(f"a server of the comparison did not start: {name}")
