"""One queue and one thread that computes: requests of several clients share a batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Compute = Callable[[NDArray[Any]], NDArray[Any]]
"""Preprocessed pixels, uint8 [N, S, S, 3] -> a row of numbers for each, [N, L]: its logits."""


@dataclass(eq=False)
class _Job:
    model: str
    compute: Compute
    pixels: NDArray[Any]
    close_at: float
    """When its batch is closed, full or not; of the monotonic clock."""
    logits: Future[NDArray[Any]] = field(default_factory=Future)


class Batcher:
    """Computes jobs in the order in which they came, those of one `Compute` together.

    A batch is closed when it is full, or when its oldest job has waited for its delay; a job that
    waited while another batch was computed is not delayed again. A job whose future is cancelled is
    not computed. The number of jobs is bounded by those who submit them.
    """

    def __init__(
        self,
        max_batch: int,
        report: Callable[[str, int, float], None] = lambda model, images, seconds: None,
    ) -> None:
        """`report` is called after each batch, in the thread."""
        self._max_batch, self._report = max_batch, report
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="inference")
        self._thread.start()

    def submit(
        self, model: str, compute: Compute, pixels: NDArray[Any], delay: float
    ) -> Future[NDArray[Any]]:
        """Return the future logits of `pixels`, at most `max_batch` images.

        They wait for others at most `delay` seconds.
        """
        job = _Job(model, compute, pixels, time.monotonic() + delay)
        job.logits.add_done_callback(lambda _: self._forget(job))
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.logits

    def close(self) -> None:
        """Compute what is waiting, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _forget(self, job: _Job) -> None:
        """Drop a job that was cancelled while it waited."""
        if job.logits.cancelled():
            with self._changed:
                if job in self._jobs:
                    self._jobs.remove(job)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            batch = [job for job in batch if job.logits.set_running_or_notify_cancel()]
            if batch:
                self._compute(batch)

    def _next(self) -> list[_Job] | None:
        """Wait for a batch and take it; None when the batcher is closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return None
            close_at = self._jobs[0].close_at
            while self._jobs and not self._closed and not self._full():
                if (left := close_at - time.monotonic()) <= 0 or not self._changed.wait(left):
                    break
            taken = self._batch()
            for job in taken:
                self._jobs.remove(job)
            return taken

    def _full(self) -> bool:
        compute = self._jobs[0].compute
        images = sum(len(job.pixels) for job in self._jobs if job.compute == compute)
        return images >= self._max_batch

    def _batch(self) -> list[_Job]:
        """The oldest job, and those after it of the same work that fit in one batch with it."""
        batch: list[_Job] = []
        images = 0
        for job in self._jobs:
            if job.compute != self._jobs[0].compute:
                continue
            images += len(job.pixels)
            if batch and images > self._max_batch:
                break
            batch.append(job)
        return batch

    def _compute(self, batch: list[_Job]) -> None:
        start = time.monotonic()
        try:
            logits = batch[0].compute(np.concatenate([job.pixels for job in batch]))
        except Exception as error:  # of a framework; it must not end the thread
            for job in batch:
                job.logits.set_exception(error)
            return
        self._report(batch[0].model, len(logits), time.monotonic() - start)
        ends = np.cumsum([len(job.pixels) for job in batch])[:-1]
        for job, rows in zip(batch, np.split(logits, ends), strict=True):
            job.logits.set_result(rows)
