"""A run's events as the original's log lines, and its checkpoints in the original's format."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..config.durations import duration_steps
from ..config.recipes import zoo
from ..training.checkpoint import Checkpoint
from ..training.schedule import due
from .checkpoints import write_zoo_ckpt


def epoch_and_step(done: int, steps_per_epoch: float) -> tuple[int, int]:
    """(epoch, step within it), both from 1, of step number `done` (from 1).

    An epoch of a broken number of steps (no image dropped) ends with the step that completes it.
    """
    epoch = max(math.ceil(done / steps_per_epoch - 1e-9), 1)
    if done <= last_step(epoch - 1, steps_per_epoch):
        epoch -= 1
    return epoch, done - last_step(epoch - 1, steps_per_epoch)


def last_step(epoch: int, steps_per_epoch: float) -> int:
    """The step with which `epoch` (from 1) ends; 0 for epoch 0."""
    return math.ceil(epoch * steps_per_epoch - 1e-9)


def epoch_line(epoch: int, step: int, loss: float) -> str:
    return f"epoch: {epoch} step: {step}, loss is {loss:.6f}"


def time_line(seconds: float, steps: int) -> str:
    return f"epoch time: {seconds * 1e3:.3f} ms, per step time: {seconds * 1e3 / steps:.3f} ms"


class ZooReporter:
    """Two lines at the end of each epoch, as the original printed them.

    The loss is the mean over the last hundredth of the epoch (recipe `zoo`'s `log_every`). The time
    is that of training since the epoch's start, or since the run was resumed in it; validation and
    the first wait for data are in it as far as they delay a step.
    """

    def __init__(
        self,
        stream: Any = None,
        ckpt_folder: Path | None = None,
        run: RunConfig | None = None,
        processes: int = 1,
    ) -> None:
        """With `ckpt_folder` a `.ckpt` is written there as often as `run` saves (not for a best
        model in between) and at the end; the newest `keep_checkpoint_max` stay."""
        self.stream = stream or sys.stdout
        self.ckpt_folder, self.run = ckpt_folder, run or zoo().run
        self.global_batch = self.run.batch_size * processes
        self.total_steps, self.steps_per_epoch = 0, 1.0
        self.seconds, self.steps = 0.0, 0
        self.step, self.since = 0, time.perf_counter()

    def message(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def started(self, step: int, total_steps: int, steps_per_epoch: float) -> None:
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.step, self.since = step, time.perf_counter()

    def metrics(self, record: dict[str, float]) -> None:
        now, done = time.perf_counter(), int(record["step"])
        if "val/top1" in record:
            epoch, _ = epoch_and_step(done, self.steps_per_epoch)
            accuracy = {
                "top_1_accuracy": record["val/top1"],
                "top_5_accuracy": record["val/top5"],
            }
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

    def saved(self, checkpoint: Checkpoint) -> None:
        """Write the `.ckpt` of a checkpoint; called by the rank and the thread that write."""
        if self.ckpt_folder is None:
            return
        done = checkpoint.step
        every = duration_steps(self.run.save_every, self.steps_per_epoch, self.global_batch)
        if done == self.total_steps or due(done, every):
            epoch, step = epoch_and_step(done, self.steps_per_epoch)
            keep = self.run.keep_checkpoint_max
            write_zoo_ckpt(self.ckpt_folder, checkpoint, epoch, step, keep)

    def close(self) -> None:
        pass
