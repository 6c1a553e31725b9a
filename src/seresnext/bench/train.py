"""How fast a recipe's training step is on this machine, in several precisions."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ..batch import Batch
from ..config import Config, Precision
from ..engines.base import Engine, create_engine
from ..errors import UserError
from ..machine import describe_cpu
from ..model.architecture import count_macs
from ..model.init import init_weights
from ..model.spec import ModelSpec
from .infer import peak_memory, resident_memory
from .workers import Workers, requests

CLASSES = 1000
_WARM_UP = 2
"""Steps before the first that counts: the first allocates, and compiles."""


@dataclass
class StepSpeed:
    """A training step in one precision."""

    precision: str
    device: str
    batch_size: int
    image_size: int
    flop: float
    """Floating-point operations for an image: forward, and twice as many backward."""
    seconds: list[float] = field(default_factory=list)
    """Of a step, in each round."""
    memory_bytes: int = 0
    """At its peak: of the device, or what the process grew by."""

    @property
    def images_per_second(self) -> float:
        return self.batch_size / statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        rate = self.images_per_second
        return vars(self) | {"images_per_second": rate, "tflops": rate * self.flop / 1e12}


def bench_train(
    config: Config,
    *,
    precisions: Sequence[Precision] = ("fp32", "bf16"),
    steps: int = 3,
    rounds: int = 5,
) -> list[StepSpeed]:
    """Measure the step of `config` on pixels that are at hand, in each precision.

    Each has its own process; they take turns, `steps` at a time. The network has 1,000 classes.
    Raises UserError for what the engine or the device cannot do.
    """
    if min(steps, rounds, len(precisions)) < 1:
        raise UserError("--steps, --rounds and --precisions: expected 1 or more")
    with Workers() as workers:
        running = []
        for precision in dict.fromkeys(precisions):
            chosen = config.replace(precision=precision).check()
            running.append(workers.start(f"the step in {precision}", _work, chosen))
        speeds: list[StepSpeed] = [worker.first for worker in running]
        for _ in range(rounds):
            for speed, worker in zip(speeds, running, strict=True):
                seconds, speed.memory_bytes = worker.ask(steps)
                speed.seconds.append(seconds)
        return speeds


def _work(config: Config, parent: Connection) -> None:
    """A worker: say what it measures, then the seconds of a step whenever asked for some."""
    before = resident_memory()
    arch = config.model.architecture(CLASSES)
    spec = ModelSpec(arch, tuple(map(str, range(CLASSES))), config.augment.input_spec())
    weights = init_weights(arch, config.run.seed)
    try:
        engine = create_engine(spec, weights, config.engine, config.optim, config.loss)
    except UserError as error:
        parent.send(error)
        return
    size, batch_size = config.augment.image_size, config.run.batch_size
    flop = 6.0 * count_macs(arch, size)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, batch_size).astype(np.int32)
    batch = Batch(
        rng.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8),
        *(labels, labels, np.ones(batch_size, np.float32)),
        *(np.ones(batch_size, bool), np.arange(batch_size)),
    )

    def run(count: int) -> float:
        start = time.perf_counter()
        scalars = [engine.train_step(batch, 0.01) for _ in range(count)]
        for each in scalars:
            engine.fetch(each)
        return (time.perf_counter() - start) / count

    run(_WARM_UP)
    parent.send(StepSpeed(engine.precision, engine.device, batch_size, size, flop))
    for count in requests(parent):
        parent.send((run(count), _memory(engine) or peak_memory() - before))
    engine.close()


def _memory(engine: Engine) -> int:
    """Return the most that was taken of a CUDA device, bytes; 0 elsewhere."""
    torch = sys.modules.get("torch")
    if engine.name != "torch" or torch is None or not engine.device.startswith("cuda"):
        return 0
    return int(torch.cuda.max_memory_allocated())


def print_speeds(config: Config, speeds: Sequence[StepSpeed]) -> None:
    """Print a table; ratios are to the first precision."""
    from rich.console import Console
    from rich.table import Table

    first = speeds[0]
    title = (
        f"{config.model.name}, {first.batch_size} images of {first.image_size} px, "
        f"{config.engine.name} on {first.device} ({describe_cpu()})"
    )
    table = Table(box=None, title=title, title_justify="left", pad_edge=False)
    table.add_column("precision", no_wrap=True)
    for name in "ms/step,lowest,highest,images/s,speed,TFLOP/s,memory GB".split(","):
        table.add_column(name, justify="right", no_wrap=True)
    for speed in speeds:
        rate = speed.images_per_second
        ratio = statistics.median(a / b for a, b in zip(first.seconds, speed.seconds, strict=True))
        table.add_row(
            speed.precision,
            *(f"{1e3 * s:.0f}" for s in (statistics.median(speed.seconds),)),
            *(f"{1e3 * s:.0f}" for s in (min(speed.seconds), max(speed.seconds))),
            *(f"{rate:.1f}", f"{ratio:.2f}x", f"{rate * speed.flop / 1e12:.3f}"),
            f"{speed.memory_bytes / 1e9:.2f}",
        )
    Console().print(table)
    best = max(speeds, key=lambda speed: speed.images_per_second)
    print(
        f"next:  seresnext plan {config.recipe} --devices 1 --batch-size {best.batch_size} "
        f"--images-per-second {best.images_per_second:.3g}   (where the data keeps up: "
        "seresnext bench loader)"
    )
