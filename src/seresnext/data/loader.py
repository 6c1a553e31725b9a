"""Batches: read, decode and augment in threads, in an order that they do not change."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from ..batch import Batch
from ..config import AugmentConfig, DataConfig
from ..errors import UserError
from ..machine import usable_cores
from ..model.spec import InputSpec
from .augment import augment_encoded, mean_color, mix_pair
from .decode import ImageError, decode_image
from .order import SampleOrder, batch_seed, pair_rng, sample_rng, steps_per_epoch
from .preprocess import preprocess
from .sources import Source

__all__ = ["BadImages", "eval_batches", "steps_per_epoch", "train_batches"]

# Rows that one thread makes at a time: few, so that all threads work on the same batch. Even, so
# that a mixed pair is in one task.
_ROWS = 8


class BadImages:
    """Images that could not be read: each once, here and in a report file of JSON lines.

    Several processes, or a run and its continuation, may share the file.
    """

    def __init__(self, path: Path | None = None) -> None:
        """With `path`, what it already lists is known."""
        self._path = path
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}
        self._read = 0
        self._whole = True
        self._read_file()

    @property
    def count(self) -> int:
        """How many different images."""
        return len(self._names)

    def names(self) -> list[str]:
        """Their names, in the order in which they were found."""
        with self._lock:
            return list(self._names)

    def add(self, name: str, index: int, reason: str) -> None:
        """Note an image: `{"file": name, "index": index, "reason": reason}`; name is its path."""
        with self._lock:
            if name in self._names:
                return
            self._read_file()  # another process may have found it meanwhile
            if name not in self._names and self._path:
                line = json.dumps({"file": name, "index": index, "reason": reason}) + "\n"
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab", buffering=0) as file:
                    file.write(line.encode() if self._whole else b"\n" + line.encode())
            self._names[name] = None

    def _read_file(self) -> None:
        """Learn what was appended to the file since it was last read."""
        if not self._path or not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                self._whole = line.endswith(b"\n")
                with contextlib.suppress(ValueError):  # a line cut short by a crash
                    self._names[json.loads(line)["file"]] = None
            self._read = file.tell()


def train_batches(
    source: Source,
    data: DataConfig,
    augment: AugmentConfig,
    *,
    seed: int,
    batch_size: int,
    report: BadImages,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    shards: int = 1,
) -> Generator[Batch, None, None]:
    """This rank's augmented batches of steps `start_step`, `start_step` + 1, ... without end.

    `batch_size` is per rank. Step k's global batch depends on the source, `augment`, `seed`, k
    and its size alone. `shards` is the number of pieces into which the engine cuts a rank's
    batch; `Batch.seed` leaves that many seeds to each rank.

    An unreadable image raises UserError, or with `data.on_bad_image == "skip"` leaves its row
    masked and is noted in `report`. Close the generator to end its threads.
    """
    order = SampleOrder(len(source), seed, batch_size * world_size, data.drop_last)
    reader = _Reader(source, data, report, mean_color(augment))
    mixes = augment.mixup > 0 or augment.cutmix > 0
    assert not mixes or batch_size % 2 == 0

    def pixels(encoded: bytes, epoch: int, index: int) -> np.ndarray:
        return augment_encoded(encoded, augment, sample_rng(seed, epoch, index), data.max_pixels)

    def fill(batch: Batch, step: int, rows: range) -> None:
        first = order.positions(step)[rank * batch_size]
        for row in rows:
            epoch, index = order.sample(first + row)
            reader.read(batch, row, index, partial(pixels, epoch=epoch, index=index))
        for row in rows[::2] if mixes else ():
            pair = slice(row, row + 2)
            if batch.mask[pair].all():
                a, b = batch.images[pair]
                batch.mix[pair] = mix_pair(a, b, augment, pair_rng(seed, (first + row) // 2))
                batch.mixed_labels[pair] = batch.labels[pair][::-1]

    return _batches(
        fill,
        lambda step: _blank(batch_size, augment.image_size, batch_seed(seed, step) + rank * shards),
        range(start_step, sys.maxsize // batch_size),
        batch_size,
        data.workers,
    )


def eval_batches(
    source: Source,
    spec: InputSpec,
    data: DataConfig,
    *,
    batch_size: int,
    report: BadImages,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[Batch, None, None]:
    """Every image once: this rank's are `rank`, `rank + world_size`, ..., in that order.

    All ranks get the same number of batches. Rows past the end are masked and have index -1.
    Unreadable images as in `train_batches`; their rows are masked and keep their index.
    """
    steps = -(-len(source) // (batch_size * world_size))
    blank = np.rint(255 * np.array(spec.mean)).astype(np.uint8)
    reader = _Reader(source, data, report, blank)

    def pixels(encoded: bytes) -> np.ndarray:
        return preprocess(decode_image(encoded, max_pixels=data.max_pixels), spec)

    def fill(batch: Batch, step: int, rows: range) -> None:
        for row in rows:
            index = (step * batch_size + row) * world_size + rank
            if index < len(source):
                reader.read(batch, row, index, pixels)
            else:
                batch.images[row] = blank

    return _batches(
        fill,
        lambda step: _blank(batch_size, spec.image_size, 0),
        range(steps),
        batch_size,
        data.workers,
    )


@dataclass(frozen=True)
class _Reader:
    """Puts single images into a batch, and knows what to do with bad ones."""

    source: Source
    data: DataConfig
    report: BadImages
    blank: np.ndarray
    """uint8 [3], colour of rows without an image."""

    def read(self, batch: Batch, row: int, index: int, make: Callable[[bytes], np.ndarray]) -> None:
        """Fill `row` with image `index`, made into pixels by `make`."""
        batch.index[row] = index
        try:
            sample = self.source[index]
            batch.images[row] = make(sample.data)
        except (ImageError, OSError) as error:
            path = self.source.describe(index)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            if self.data.on_bad_image == "stop":
                raise UserError(
                    f"cannot read image {path}: {reason}; mend or remove it, or leave such images "
                    "out with --data.on-bad-image skip (evaluate: --on-bad-image skip)"
                ) from None
            self.report.add(path, index, reason)
            batch.images[row] = self.blank
            return
        batch.labels[row] = batch.mixed_labels[row] = sample.label
        batch.mask[row] = True


def _blank(batch_size: int, image_size: int, seed: int) -> Batch:
    """A batch to be filled. Its pixels are not set."""
    return Batch(
        images=np.empty((batch_size, image_size, image_size, 3), np.uint8),
        labels=np.zeros(batch_size, np.int32),
        mixed_labels=np.zeros(batch_size, np.int32),
        mix=np.ones(batch_size, np.float32),
        mask=np.zeros(batch_size, bool),
        index=np.full(batch_size, -1, np.int64),
        seed=seed,
    )


def _batches(
    fill: Callable[[Batch, int, range], None],
    blank: Callable[[int], Batch],
    steps: range,
    batch_size: int,
    workers: int,
) -> Generator[Batch, None, None]:
    """Yield the batches of `steps`, in order, made ahead of time by `workers` threads.

    Threads fill `_ROWS` rows at a time, straight into the batch that they belong to. What `fill`
    raises is raised here. The threads end when the generator is closed or forgotten.
    """
    pieces = [range(row, min(row + _ROWS, batch_size)) for row in range(0, batch_size, _ROWS)]
    threads = workers or usable_cores()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="seresnext-data")

    def start(step: int) -> tuple[Batch, list[Future[None]]]:
        batch = blank(step)
        return batch, [pool.submit(fill, batch, step, rows) for rows in pieces]

    started = map(start, steps)
    try:
        # Two batches ready, and a task for every thread beyond them.
        ahead = deque(islice(started, 2 + -(-threads // len(pieces))))
        while ahead:
            batch, parts = ahead.popleft()
            for part in parts:
                part.result()
            ahead.extend(islice(started, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
