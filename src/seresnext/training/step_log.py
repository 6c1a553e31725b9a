"""The log of training steps: collects their scalars, fetches them together, checks them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..engines.base import Engine
from ..errors import UserError
from .log import MetricsFile, Reporter
from .metrics import Metrics
from .plan import Plan

_DATA_BOUND = 0.1
"""Share of the time waiting for data from which data is what bounds a run."""
BAD_STEPS_FILE = "bad-steps.jsonl"


class StepLog:
    """Holds the steps since the last flush; a flush is the run's only wait for the device."""

    def __init__(
        self, reporter: Reporter, engine: Engine, plan: Plan, step: int, run: Path | None
    ) -> None:
        """`step`: steps done so far. `run`: the run folder on rank 0, None on the others."""
        self.reporter, self.engine, self.plan = reporter, engine, plan
        self.step, self.bad_in_row = step, 0
        self.pace: float | None = None
        # Not the batches themselves: a hundred of 128 at 224 px take 1.9 GB.
        self.pending: list[tuple[Any, NDArray[Any], float]] = []
        self.waited = 0.0
        self.flushes, self.timed = 0, np.zeros(3)
        """Of all flushes but the first, which allocates and compiles: images, seconds, waited."""
        self.since = time.perf_counter()
        self.file = MetricsFile(run, step) if run else None

    def start(self) -> None:
        """Tell the reporter that steps follow; the time counts from here."""
        self.since = time.perf_counter()
        self.reporter.started(self.step, self.plan.total_steps, self.plan.steps_per_epoch)

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.file:
            self.file.close()
        self.reporter.close()

    def wait_for(self, batches: Iterator[Batch]) -> Batch:
        """Return the next batch; the time it took counts as waiting for data."""
        start = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - start
        return batch

    def add(self, scalars: Any, batch: Batch, lr: float) -> None:
        """Keep a step's scalars, as `Engine.train_step` returned them, for the next flush."""
        self.step += 1
        self.pending.append((scalars, batch.index, lr))

    def flush(self) -> None:
        """Fetch and report the pending steps.

        Raises UserError when `run.max_bad_steps` steps in a row had a loss or gradient that is
        not finite; none of those changed the model.
        """
        if not self.pending:
            return
        values = [self.engine.fetch(scalars) for scalars, _, _ in self.pending]
        first = self.step - len(values) + 1
        pixels = self.plan.pixels(first - 1, self.step)
        for offset, (value, (_, index, _)) in enumerate(zip(values, self.pending, strict=True)):
            self._check(first + offset, value, index)
        now = time.perf_counter()
        seconds, good = max(now - self.since, 1e-9), [v for v in values if v["finite"]] or values
        record = {
            "step": self.step,
            "epoch": self.step / self.plan.steps_per_epoch,
            "train/loss": sum(v["loss"] for v in good) / len(good),
            "train/top1": sum(v["top1"] for v in good) / len(good),
            "lr": self.pending[-1][2],
            "images_per_second": len(values) * self.plan.global_batch / seconds,
            "data_wait": self.waited / seconds,
            "remaining": self._pace(seconds / pixels)
            * self.plan.pixels(self.step, self.plan.total_steps),
        }
        self._write(record)
        self.flushes += 1
        if self.flushes > 1:
            self.timed += len(values) * self.plan.global_batch, seconds, self.waited
        self.pending, self.waited, self.since = [], 0.0, now

    def speed(self) -> str:
        """Return the images per second of this start and what bounds them, a sentence; empty before
        the second flush."""
        images, seconds, waited = self.timed.tolist()
        if not images:
            return ""
        rate, share = f"{images / seconds:.1f} images/s", waited / seconds
        if share > _DATA_BOUND:
            return (
                f"{rate}, bound by data ({share:.0%} of the time waiting for it): smaller image "
                "files (seresnext data pack --max-side 500), a faster disk or more --workers, "
                "where there are cores for them, would help"
            )
        engine = self.engine
        slower = engine.name == "torch" and engine.precision == "fp32"
        hint = ""
        if slower and not engine.precision_reason:
            hint = "; in another run, --precision auto measures whether bf16 is faster"
        return f"{rate}, bound by computing ({share:.0%} of the time waiting for data){hint}"

    def _pace(self, latest: float) -> float:
        """Return seconds per pixel of an image, smoothed over some flushes."""
        self.pace = latest if self.pace is None else 0.8 * self.pace + 0.2 * latest
        return self.pace

    def evaluated(self, metrics: Metrics) -> None:
        """Report an evaluation; the time it took does not count as training."""
        self._write(
            {
                "step": self.step,
                "epoch": self.step / self.plan.steps_per_epoch,
                "val/top1": metrics.top1,
                "val/top5": metrics.top5,
                "val/loss": metrics.loss,
                "val/images": metrics.images,
                "val/unread": metrics.unread,
            }
        )
        self.since = time.perf_counter()

    def _write(self, record: dict[str, float]) -> None:
        self.reporter.metrics(record)
        if self.file:
            self.file.write(record)

    def _check(self, step: int, value: dict[str, float], index: NDArray[Any]) -> None:
        """Record a step that is not finite; raise UserError after too many in a row."""
        if value["finite"]:
            self.bad_in_row = 0
            return
        self.bad_in_row += 1
        samples = self._samples_of_all_ranks(index).tolist()
        if self.file:
            entry = {"step": step, "loss": str(value["loss"]), "samples": samples}
            self.file.append(BAD_STEPS_FILE, entry)
        self.reporter.message(
            f"step {step}: loss or gradient is not finite; nothing was updated, the batch's "
            f"samples are in {BAD_STEPS_FILE}"
        )
        if self.bad_in_row >= self.plan.max_bad_steps:
            raise UserError(
                f"stopped at step {step}: loss or gradient not finite {self.bad_in_row} steps in a "
                f"row (run.max_bad_steps). The samples are listed in {BAD_STEPS_FILE}. A lower "
                "learning rate (--optim.lr-per-256), gradient clipping (--optim.clip-norm 1) or "
                "--precision fp32 usually helps"
            )

    def _samples_of_all_ranks(self, index: NDArray[Any]) -> NDArray[Any]:
        """Sample numbers of the global batch, from this rank's int64 [B]. A collective."""
        everyone = np.zeros((self.engine.world_size, len(index)), np.int64)
        everyone[self.engine.rank] = index
        return self.engine.all_sum(everyone).ravel()
