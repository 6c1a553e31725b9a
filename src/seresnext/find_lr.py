"""The learning rate to train with, from a trial in which it grows (arXiv:1506.01186, section 3.3).

The first steps of a run are made at rates from low to high. The loss hardly moves at first, then
falls, and rises again where the rate is too high.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .batch import Batch
from .config import Config
from .data.loader import Reader, Share, train_batches
from .data.sources import open_splits
from .engines.base import Engine, create_engine
from .files import replacing
from .model.spec import ModelSpec
from .report.charts import Axis, Line, Mark, escape, legend, line_chart
from .report.page import document
from .training.class_weights import with_class_weights
from .training.log import Reporter
from .training.plan import make_plan
from .training.start import start_weights
from .training.teacher import open_teacher, taught

TOO_HIGH = 4.0
"""The trial ends where the loss is so many times its lowest."""
_RISE = 1.1
"""Times its lowest, where the loss counts as risen."""
_BELOW = 3.0
"""The suggestion is so many times lower than the rate from which the loss rises. A tenth of the
rate of the lowest loss, which is usual, was 30 times lower than that on images that a few steps
learn, and arbitrary on the digits, where the loss does not fall in 100 steps."""


@dataclass(frozen=True)
class Trial:
    """What the loss did at each rate."""

    rates: NDArray[np.float64]
    """[N], ascending by equal factors."""
    losses: NDArray[np.float64]
    """[N], of single batches."""
    batch_size: int
    ended: bool
    """Whether the loss rose so much that the trial ended before its highest rate."""

    @property
    def smooth(self) -> NDArray[np.float64]:
        """The losses, each the mean of its neighbours, 1/15 of all on either side."""
        reach = max(1, len(self.losses) // 15)
        near = [self.losses[max(0, i - reach) : i + reach + 1] for i in range(len(self.losses))]
        return np.array([part.mean() for part in near])

    @property
    def rises(self) -> float | None:
        """The rate from which on the smooth loss has risen; None where it has not at the end."""
        low = np.flatnonzero(self.smooth <= _RISE * self.smooth.min())[-1] + 1
        return float(self.rates[low]) if low < len(self.rates) else None

    @property
    def suggestion(self) -> float | None:
        """A third of `rises`, in two digits."""
        return None if self.rises is None else float(f"{self.rises / _BELOW:.1e}")


def rates_between(low: float, high: float, steps: int) -> NDArray[np.float64]:
    """Return float64 [steps], from `low` to `high` by equal factors."""
    return np.geomspace(low, high, steps)


def find_lr(config: Config, rates: NDArray[np.float64], reporter: Reporter) -> Trial:
    """Make the first steps of `config`'s run at `rates`; nothing of it is kept.

    Raises UserError as a training does.
    """
    with ExitStack() as stack:
        source, _ = open_splits(config.data)
        classes = source.class_names
        spec = ModelSpec(
            config.model.architecture(len(classes)), classes, config.augment.input_spec()
        )
        plan = make_plan(config, len(source), 1, config.run.batch_size)
        optim = replace(config.optim, ema_decay=0.0)
        loss = with_class_weights(config.loss, source.labels, len(classes))
        weights = start_weights(config, spec, reporter)
        engine = create_engine(spec, weights, config.engine, optim, loss)
        stack.callback(engine.close)
        pieces = config.engine.virtual_shards or optim.accumulate
        share = Share(plan.batch_size, shards=pieces)
        reader = Reader(source, config.data)
        batches = train_batches(
            reader, config.augment, share, config.run.seed, image_size=plan.image_size
        )
        stack.enter_context(closing(batches))
        if config.loss.teacher:
            teacher = open_teacher(config, engine, reporter.message)
            stack.callback(teacher.close)
            batches = taught(batches, teacher)
            stack.enter_context(closing(batches))
        reporter.message(
            f"{config.model.name} on {engine.name} {engine.device}, {config.engine.precision}; "
            f"{len(source)} images in {len(classes)} classes; up to {len(rates)} steps of "
            f"{plan.batch_size} images at rates from {rates[0]:.2g} to {rates[-1]:.2g}"
        )
        losses = losses_at(engine, batches, rates)
    return Trial(rates[: len(losses)], losses, plan.batch_size, len(losses) < len(rates))


def losses_at(
    engine: Engine, batches: Iterable[Batch], rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Train one batch at each rate; return the losses up to where they are too high."""
    losses: list[float] = []
    lowest = math.inf
    for batch, rate in zip(batches, rates.tolist(), strict=False):
        step = engine.fetch(engine.train_step(batch, rate))
        if not step["finite"] or not math.isfinite(step["loss"]):
            break
        losses.append(step["loss"])
        recent = float(np.mean(losses[-3:]))  # one odd batch does not end it
        lowest = min(lowest, recent)
        if recent > TOO_HIGH * lowest:
            break
    return np.array(losses)


def write_page(path: Path, trial: Trial, note: str, text: str) -> None:
    """Write the curve as one HTML file. Raises UserError."""
    x = np.log10(trial.rates).tolist()
    lines = [
        Line("a batch", x, trial.losses.tolist(), 1, dashed=True),
        Line("smooth", x, trial.smooth.tolist(), 0),
    ]
    found = (("suggestion", trial.suggestion), ("rises from here on", trial.rises))
    marks = [Mark(math.log10(rate), f"{what}: {rate:.2g}") for what, rate in found if rate]
    chart = line_chart(lines, Axis("learning rate", powers=True), Axis("loss", wide=True), marks)
    key = legend([("smooth", 0, False), ("single batches", 1, True)])
    figure = f"<figure><figcaption>Loss by learning rate</figcaption>{chart}</figure>"
    body = f"<section>{key}{figure}<p>{escape(text)}</p></section>"
    with replacing(path) as temporary:
        temporary.write_text(document("Learning rate", note, body), encoding="utf-8")
