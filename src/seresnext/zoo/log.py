"""The original's log lines."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TextIO


def epoch_and_step(done: int, steps_per_epoch: float) -> tuple[int, int]:
    """(epoch, step within it) of step number `done`, all counted from 1.

    An epoch of a fractional number of steps (no image dropped) ends with the step that completes
    it.
    """
    epoch = max(math.ceil(done / steps_per_epoch - 1e-9), 1)
    if done <= last_step(epoch - 1, steps_per_epoch):
        epoch -= 1
    return epoch, done - last_step(epoch - 1, steps_per_epoch)


def last_step(epoch: int, steps_per_epoch: float) -> int:
    """Number of the last step of `epoch`, counted from 1; 0 for epoch 0."""
    return math.ceil(epoch * steps_per_epoch - 1e-9)


def epoch_line(epoch: int, step: int, loss: float) -> str:
    return f"epoch: {epoch} step: {step}, loss is {loss:.6f}"


def time_line(seconds: float, steps: int) -> str:
    return f"epoch time: {seconds * 1e3:.3f} ms, per step time: {seconds * 1e3 / steps:.3f} ms"


def accuracy_text(top1: float, top5: float) -> str:
    return str({"top_1_accuracy": top1, "top_5_accuracy": top5})


class ZooReporter:
    """Two lines at the end of each epoch, as the original printed them.

    The loss is the mean over the last hundredth of the epoch (recipe `zoo`'s `log_every`). The time
    is that of training since the epoch's start, or since the run was resumed in it. Validation is
    not counted, the first wait for data is.
    """

    def __init__(
        self, stream: TextIO | None = None, words: Callable[[str], str] = lambda text: text
    ) -> None:
        """`words` puts a message of the package into the words of the command."""
        self.stream = stream or sys.stdout
        self.words = words
        self.steps_per_epoch = 1.0
        self.seconds, self.steps = 0.0, 0
        self.step, self.since = 0, time.perf_counter()

    def message(self, text: str) -> None:
        print(self.words(text), file=self.stream, flush=True)

    def started(self, step: int, total_steps: int, steps_per_epoch: float) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.step, self.since = step, time.perf_counter()

    def metrics(self, record: dict[str, float]) -> None:
        now, done = time.perf_counter(), int(record["step"])
        if "val/top1" in record:
            epoch, _ = epoch_and_step(done, self.steps_per_epoch)
            accuracy = accuracy_text(record["val/top1"], record["val/top5"])
            self.message(f"epoch: {epoch} validation accuracy is {accuracy}")
            self.since = now
            return
        self.seconds += now - self.since
        self.steps += done - self.step
        self.step, self.since = done, now
        epoch, step = epoch_and_step(done, self.steps_per_epoch)
        if done == last_step(epoch, self.steps_per_epoch):
            self.message(epoch_line(epoch, step, record["train/loss"]))
            self.message(time_line(self.seconds, self.steps))
            self.seconds, self.steps = 0.0, 0

    def close(self) -> None:
        pass
