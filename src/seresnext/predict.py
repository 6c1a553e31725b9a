"""Images in, the most probable classes out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .data.decode import ImageError, decode_image
from .data.preprocess import preprocess
from .runtimes.base import Runtime


@dataclass(frozen=True)
class Prediction:
    """One image's answer."""

    file: str
    classes: tuple[str, ...]
    """Most probable first."""
    probabilities: tuple[float, ...]
    error: str = ""
    """Why the image could not be read; then there are no classes."""

    def to_dict(self) -> dict[str, Any]:
        if self.error:
            return {"file": self.file, "error": self.error}
        top = [
            {"class": name, "probability": p}
            for name, p in zip(self.classes, self.probabilities, strict=True)
        ]
        return {"file": self.file, "top": top}


def predict(
    model: Runtime,
    files: Iterable[Path],
    *,
    top: int = 5,
    batch_size: int = 32,
    workers: int = 2,
    max_pixels: int = 100_000_000,
) -> Iterator[Prediction]:
    """Yield one Prediction per file, in order; decoding runs ahead by one batch.

    Memory is bounded by two batches, whatever the number of files. An unreadable file yields its
    error and disturbs no other.
    """

    def read(path: Path) -> np.ndarray | str:
        try:
            return preprocess(
                decode_image(path.read_bytes(), max_pixels=max_pixels), model.spec.input
            )
        except OSError as error:
            return error.strerror or str(error)
        except ImageError as error:
            return str(error)

    paths = iter(files)
    with ThreadPoolExecutor(workers) as pool:
        ahead: list[tuple[Path, Any]] = []
        while True:
            current = ahead or [
                (p, pool.submit(read, p)) for p in itertools.islice(paths, batch_size)
            ]
            if not current:
                return
            ahead = [(p, pool.submit(read, p)) for p in itertools.islice(paths, batch_size)]
            yield from _predict_batch(model, [(p, f.result()) for p, f in current], top)


def _predict_batch(
    model: Runtime, items: list[tuple[Path, np.ndarray | str]], top: int
) -> Iterator[Prediction]:
    images = [image for _, image in items if not isinstance(image, str)]
    rows = iter(softmax(model.predict(np.stack(images))) if images else ())
    names = model.spec.class_names
    for path, image in items:
        if isinstance(image, str):
            yield Prediction(str(path), (), (), image)
            continue
        row = next(rows)
        order = np.argsort(-row, kind="stable")[:top]
        yield Prediction(
            str(path), tuple(names[i] for i in order), tuple(float(row[i]) for i in order)
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities, float64 [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    exp = np.exp(shifted)
    return np.asarray(exp / exp.sum(1, keepdims=True))
