"""The models behind the server, and the way of a request's images through them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from ..api import Model
from ..data.decode import ImageError, decode_image
from ..data.preprocess import preprocess
from ..errors import one_line
from ..machine import usable_cores
from ..report.maps import ClassMaps, maps_of
from .batcher import Batcher, Compute
from .body import ClientLeft, read_body
from .limits import BODIES, RETRY, Budget, Limits, Refusal
from .metrics import Metrics

T = TypeVar("T")

VERSION = "1"
"""Every model has this one version in the protocol's paths."""


@dataclass
class Served:
    """A model under the name that clients use."""

    name: str
    model: Model
    maps: ClassMaps | None = field(init=False)
    """Gives class activation maps; None where there are none, or of a single place."""

    def __post_init__(self) -> None:
        runtime = self.model.runtime
        self.maps = maps_of(runtime) if runtime.spec.places > 1 else None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.model.class_names

    def seen(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return logits [N, K], and after each row the map [h * w] of its most probable class."""
        assert self.maps
        logits, maps = self.maps(pixels)
        chosen = maps[np.arange(len(logits)), logits.argmax(1)]
        return np.concatenate([logits, chosen.reshape(len(logits), -1)], axis=1)


class Service:
    """Models, bounds and counters of one server. Used from its event loop, closed at its end."""

    def __init__(self, models: Iterable[Served], limits: Limits, token: str = "") -> None:
        self.models = {served.name: served for served in models}
        self.limits = limits
        self.token = token
        """What clients must send as bearer token; empty for none."""
        self.draining = False
        """True after the signal to end: no new work, answers to what has come."""
        self.working = 0
        """Requests with images that are not answered yet."""
        self.metrics = Metrics()
        self._images = Budget(limits.queue, "images")
        self._memory = Budget(BODIES * limits.body_bytes, "bytes")
        self._batcher = Batcher(limits.max_batch, self.metrics.batch)
        self._pool = ThreadPoolExecutor(usable_cores(), "decode")
        self.metrics.gauge("queue_images", "Images in the server.", lambda: self._images.used)
        self.metrics.gauge("body_bytes", "Request bodies in memory.", lambda: self._memory.used)

    def model(self, name: str, version: str = VERSION) -> Served:
        """Return the model of that name. Raises Refusal (404)."""
        if name not in self.models or version != VERSION:
            known = ", ".join(self.models)
            raise Refusal(
                404, f"no model {name!r} version {version!r}; here are {known}", "unknown_model"
            )
        return self.models[name]

    async def answer(self, request: Request, work: Callable[[Work], Coroutine[Any, Any, T]]) -> T:
        """Read the request's body, then return what `work` makes of it.

        Raises Refusal for what exceeds the limits, and ClientLeft; then the work is given up.
        """
        if self.draining:
            raise Refusal(503, "the server is shutting down", "draining", RETRY)
        if self._images.full:
            raise self._images.busy()
        self.working += 1
        try:
            with self._memory.share() as memory, self._images.share() as images:
                body = await read_body(request, self.limits, memory)
                task = work(Work(body, images.take, self))
                return await _unless_left(request, task, self.limits.deadline)
        finally:
            self.working -= 1

    def close(self) -> None:
        """End the threads and free the models."""
        self._pool.shutdown(cancel_futures=True)
        self._batcher.close()
        for served in self.models.values():
            served.model.close()

    async def in_pool(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the decoding pool; not called if the caller is cancelled before."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def logits(self, served: Served, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return float32 [N, K] of preprocessed pixels. Raises Refusal (500)."""
        return await self._computed(served.name, served.model.logits, pixels)

    async def seen(self, served: Served, pixels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the same, and the maps [N, h, w] of the most probable classes."""
        rows = await self._computed(served.name, served.seen, pixels)
        logits, maps = np.split(rows, [len(served.class_names)], axis=1)
        places = served.model.runtime.spec.places
        return logits, maps.reshape(-1, places, places)

    async def _computed(self, name: str, compute: Compute, pixels: NDArray[Any]) -> NDArray[Any]:
        most = self.limits.max_batch
        others = self._images.used > len(pixels)  # without them there is nothing to wait for
        delay = self.limits.max_delay_ms / 1e3 if others else 0.0
        pieces = [pixels[start : start + most] for start in range(0, len(pixels), most)]
        futures = [self._batcher.submit(name, compute, piece, delay) for piece in pieces]
        try:
            rows = await asyncio.gather(*map(asyncio.wrap_future, futures))
        except Exception as error:  # whatever the framework raises
            raise Refusal(500, f"the model failed: {one_line(error)}", "model_failed") from error
        answer: NDArray[Any] = np.concatenate(rows)
        if not np.isfinite(answer).all():
            raise Refusal(500, "the model's answer is not finite (NaN or infinity)", "not_finite")
        return answer


@dataclass(frozen=True)
class Work:
    """One request whose body has come."""

    body: bytes
    take: Callable[[int], None]
    """Take places in the queue, for so many images. Raises Refusal."""
    service: Service

    async def parsed(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return `function(body, *arguments)`, called in the pool."""
        return await self.service.in_pool(function, self.body, *arguments)

    async def decoded(
        self, served: Served, files: list[bytes]
    ) -> list[NDArray[np.uint8] | ImageError]:
        """Return each image's preprocessed pixels, or why it cannot be read."""
        read = self.service.in_pool
        most = self.service.limits.max_pixels
        return list(await asyncio.gather(*(read(_decode, file, served, most) for file in files)))

    async def preprocessed(self, served: Served, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return preprocessed pixels [N, S, S, 3] of images [N, H, W, 3]."""
        run, spec = self.service.in_pool, served.model.input
        return np.stack(await asyncio.gather(*(run(preprocess, image, spec) for image in images)))


def _decode(data: bytes, served: Served, max_pixels: int) -> NDArray[np.uint8] | ImageError:
    try:
        return preprocess(decode_image(data, max_pixels=max_pixels), served.model.input)
    except ImageError as error:
        return error


async def _unless_left(request: Request, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Return what `work` returns; give it up when the client leaves or the time is over."""
    tasks: tuple[asyncio.Task[T], asyncio.Task[None]]
    tasks = asyncio.create_task(work), asyncio.create_task(_left(request.receive))
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] in done:
            return tasks[0].result()
        if tasks[1] in done:
            raise ClientLeft
        raise Refusal(504, f"not computed within {seconds:g} s", "deadline", RETRY)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
