"""Prediction: images of any kind in, the most probable classes out."""

from __future__ import annotations

import http.client
import itertools
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import __version__
from .batch import check_batch_size
from .config import DataConfig
from .data.decode import ImageError, decode_image, decode_pillow
from .data.preprocess import preprocess
from .data.sources.file_list import MAX_FILE_BYTES
from .errors import UserError, printable
from .runtimes.base import Runtime

ImageLike = str | Path | bytes | NDArray[Any] | Image.Image
"""A file's path, an http(s) address, a file's content, uint8 [H, W, 3] RGB, or a Pillow image."""

_AHEAD = 2
"""Decoding threads: enough to keep a CPU runtime busy."""
_TIMEOUT = 30.0
"""Seconds that a server may be silent."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    >>> print(seresnext.load("runs/mine").predict("cat.jpg", top=1))
    cat ...%
    """

    file: str
    """Path or address of the image; empty for other kinds."""
    classes: tuple[str, ...]
    """Most probable first."""
    probabilities: tuple[float, ...]
    """Of these classes, 0 to 1."""
    error: str = ""
    """Why the image could not be read; then there are no classes."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        >>> sorted(seresnext.load("runs/mine").predict("cat.jpg").to_dict())
        ['file', 'top']
        """
        if self.error:
            return {"file": self.file, "error": self.error}
        top = [{"class": n, "probability": p} for n, p in self._pairs()]
        return {"file": self.file, "top": top}

    def __str__(self) -> str:
        return self.error or ", ".join(f"{printable(n)} {p:.1%}" for n, p in self._pairs())

    def _pairs(self) -> Iterable[tuple[str, float]]:
        return zip(self.classes, self.probabilities, strict=True)


def predict(
    model: Runtime,
    images: Iterable[ImageLike],
    *,
    top: int = 5,
    batch_size: int = 32,
    max_pixels: int = DataConfig().max_pixels,
) -> Iterator[Prediction]:
    """Yield a Prediction per image, in order; decoding runs one batch ahead.

    Memory is bounded by two batches, whatever the number of images. An unreadable image yields
    its error and does not affect the others. Raises UserError for `top` or `batch_size` below 1 and
    for a model that answers NaN.
    """
    if top < 1:
        raise UserError(f"--top: expected 1 or more, got {top}")
    check_batch_size(batch_size, model.spec.input.image_size, "--batch-size")
    items = iter(images)
    with ThreadPoolExecutor(_AHEAD) as pool:

        def start() -> list[tuple[ImageLike, Future[NDArray[Any] | str]]]:
            chosen = itertools.islice(items, batch_size)
            return [(item, pool.submit(read_image, item, model, max_pixels)) for item in chosen]

        current = start()
        while current:
            ahead = start()
            yield from _predict_batch(model, [(i, f.result()) for i, f in current], top)
            current = ahead


def read_image(
    item: ImageLike, model: Runtime, max_pixels: int = DataConfig().max_pixels
) -> NDArray[Any] | str:
    """Return the preprocessed pixels, uint8 [S, S, 3], or why there are none."""
    try:
        return preprocess(_pixels(item, max_pixels), model.spec.input)
    except OSError as error:
        return error.strerror or str(error)
    except ImageError as error:
        return str(error)


def _pixels(item: ImageLike, max_pixels: int) -> NDArray[Any]:
    """Upright uint8 [H, W, 3]. Raises ImageError and OSError."""
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or 0 in item.shape:
            raise ImageError(
                f"an array of {item.dtype} {list(item.shape)}; expected uint8 [height, width, 3]"
            )
        return item
    if isinstance(item, Image.Image):
        return decode_pillow(item, max_pixels=max_pixels)
    if isinstance(item, str) and is_url(item):
        data = _download(item)
    else:
        data = item if isinstance(item, bytes) else Path(item).read_bytes()
    return decode_image(data, max_pixels=max_pixels)


def is_url(text: str) -> bool:
    """Return whether a text is the address of an image, not its path."""
    return text.lower().startswith(("http://", "https://"))


def _download(url: str) -> bytes:
    """The file at an address. Raises OSError."""
    agent = {"User-Agent": f"seresnext/{__version__}"}
    try:
        request = urllib.request.Request(url, headers=agent)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            data: bytes = answer.read(MAX_FILE_BYTES + 1)
    except (ValueError, http.client.HTTPException) as error:  # an address that is none
        raise OSError(f"cannot be downloaded: {error or type(error).__name__}") from None
    if len(data) > MAX_FILE_BYTES:
        raise OSError(f"more than {MAX_FILE_BYTES} bytes")
    return data


def _predict_batch(
    model: Runtime, items: list[tuple[ImageLike, NDArray[Any] | str]], top: int
) -> Iterator[Prediction]:
    pixels = [image for _, image in items if not isinstance(image, str)]
    logits = model.predict(np.stack(pixels)) if pixels else np.empty((0, 1))
    if not np.isfinite(logits).all():
        raise UserError(
            "the model answers NaN or infinity: its weights are damaged, or its training diverged"
        )
    rows = iter(softmax(logits))
    names = model.spec.class_names
    for item, image in items:
        file = str(item) if isinstance(item, str | Path) else ""
        if isinstance(image, str):
            yield Prediction(file, (), (), image)
            continue
        yield ranked(next(rows), names, top, file)


def ranked(
    probabilities: NDArray[Any], names: tuple[str, ...], top: int, file: str = ""
) -> Prediction:
    """Return the `top` most probable classes; `probabilities` [K] of the classes `names`."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    values = tuple(float(probabilities[i]) for i in order)
    return Prediction(file, tuple(names[i] for i in order), values)


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Return class probabilities, float64 [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    exp = np.exp(shifted)
    return np.asarray(exp / exp.sum(1, keepdims=True))
