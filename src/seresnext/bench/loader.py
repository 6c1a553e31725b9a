"""How fast training images are loaded here, beside other loaders."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import AugmentConfig, DataConfig
from ..data.loader import Reader, Share, train_batches
from ..data.sources import open_part, split_parts
from ..data.sources.folder import is_split
from ..data.sources.splits import Part
from ..errors import UserError, one_line
from ..machine import describe_cpu
from .peers import BATCH, PEERS, Crops
from .photos import write_photos
from .workers import Workers, requests

OURS = "seresnext"
_MADE_AHEAD = 8
"""Batches before the first that counts: what was made beforehand is used up."""


@dataclass
class Loading:
    """One loader with one number of threads."""

    loader: str
    threads: int
    rates: list[float] = field(default_factory=list)
    """Images per second of each round."""
    busy: list[float] = field(default_factory=list)
    """Processor time per image of each round, ms; without that of a loader's own processes."""
    problem: str = ""
    """Why it was left out."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return vars(self) | {
            "images_per_second": statistics.median(self.rates) if self.rates else None
        }


@dataclass(frozen=True)
class _Task:
    """What a worker loads."""

    name: str
    part: Part
    data: DataConfig
    augment: AugmentConfig
    threads: int

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        augment = self.augment
        if self.name != OURS:
            yield from PEERS[self.name](
                Crops(
                    self.part.path,
                    augment.image_size,
                    augment.crop_scale,
                    augment.crop_ratio,
                    self.threads,
                )
            )
        source = open_part(self.part, allow_empty_classes=True, follow_links=self.data.follow_links)
        reader = Reader(source, replace(self.data, workers=self.threads))
        for batch in train_batches(reader, augment, Share(BATCH), seed=0):
            yield batch.images


def bench_loader(
    data: DataConfig,
    augment: AugmentConfig,
    *,
    threads: Sequence[int] = (1, 2),
    images: int = 1024,
    rounds: int = 5,
    peers: bool = False,
) -> list[Loading]:
    """Measure the loading of the training images of `data` with each number of threads.

    Without `data.root` the images are synthetic photographs. With `peers`, other loaders that are
    installed take part; all then crop and flip only. Each loader has its own process; they take
    turns, `images` at a time, and are stopped meanwhile. Raises UserError.
    """
    if min((images // BATCH, rounds, *threads), default=0) < 1:
        raise UserError(f"--images: {BATCH} or more; --rounds and --threads: 1 or more")
    with ExitStack() as stack:
        if not data.root:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_photos(folder)
            data = replace(data, root=str(folder), val_share=0.0)
        part = split_parts(data)[0]
        names = [OURS, *(PEERS if peers else ())]
        if peers:
            if part.share or not is_split(part.path):
                raise UserError(
                    f"--peers: expected a folder with <class>/ in it, which other loaders read, "
                    f"got {part}"
                )
            augment = AugmentConfig(
                image_size=augment.image_size,
                crop_scale=augment.crop_scale,
                crop_ratio=augment.crop_ratio,
                color_jitter=(0.0, 0.0, 0.0, 0.0),
            )
        found = []
        for count in threads:
            tasks = [_Task(name, part, data, augment, count) for name in names]
            found += _turns(tasks, images, rounds)
        return found


def _turns(tasks: list[_Task], images: int, rounds: int) -> list[Loading]:
    results = [Loading(task.name, task.threads) for task in tasks]
    with Workers(stops=True) as workers:
        running = []
        for task, result in zip(tasks, results, strict=True):
            worker = workers.start(task.name, _work, task)
            result.problem = worker.first
            if not result.problem:
                running.append((result, worker))
            elif task.name == OURS:
                raise UserError(result.problem)
        for _ in range(rounds):
            for result, worker in running:
                rate, busy = worker.ask(images)
                result.rates.append(rate)
                result.busy.append(busy)
    return results


def _work(task: _Task, parent: Connection) -> None:
    """A worker: say why it cannot load, if so, then measure whenever it is sent a number."""
    try:
        batches = task.batches()
        next(batches)
    except Exception as error:  # of another package: it is left out
        missing = f"not installed ({one_line(error)})" if isinstance(error, ImportError) else ""
        parent.send(missing or one_line(error) or type(error).__name__)
        return
    parent.send("")
    for images in requests(parent):
        parent.send(_measure(batches, images))
    batches.close()  # type: ignore[attr-defined]


def _measure(batches: Iterator[NDArray[np.uint8]], images: int) -> tuple[float, float]:
    """Return images per second, and processor time per image in ms."""
    for _ in range(_MADE_AHEAD):
        next(batches)
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(images // BATCH):
        next(batches)
    count = images // BATCH * BATCH
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return count / seconds, 1000 * busy / count


def print_loading(results: Sequence[Loading]) -> None:
    """Print a table; ratios are ours to the others, medians of the rounds."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, title=describe_cpu(), title_justify="left", pad_edge=False)
    table.add_column("loader")
    for name in "threads,images/s,lowest,highest,ours is,CPU ms/image".split(","):
        table.add_column(name, justify="right", no_wrap=True)
    left_out = {r.loader: r.problem for r in results if r.problem}
    ours = {r.threads: r for r in results if r.loader == OURS}
    for result in results:
        if result.problem:
            continue
        pairs = zip(ours[result.threads].rates, result.rates, strict=True)
        ratio = statistics.median(mine / other for mine, other in pairs)
        busy = statistics.median(result.busy)
        table.add_row(
            result.loader,
            str(result.threads),
            f"{statistics.median(result.rates):.0f}",
            f"{min(result.rates):.0f}",
            f"{max(result.rates):.0f}",
            f"{ratio:.2f}x",
            "in processes" if result.loader == "torch" else f"{busy:.2f}",
        )
    Console().print(table)
    for name, problem in left_out.items():
        print(f"left out: {name}: {problem}")
    best = max((r for r in ours.values()), key=lambda r: statistics.median(r.rates))
    rate = statistics.median(best.rates)
    print(f"training waits for data where it takes more than {math.floor(rate)} images/s")
