"""Latency, throughput and memory of models, side by side on this machine."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ..batch import check_batch_size
from ..config import EngineName
from ..errors import UserError, printable
from ..machine import describe_cpu
from ..runtimes.base import create_runtime
from ..weights.trained import load_trained
from .workers import Workers, requests

WARM_UP = 3
"""Calls before the first that counts, for each batch size: kernels are chosen, memory is taken."""


@dataclass
class Measurement:
    """One artifact."""

    model: str
    runtime: str
    device: str
    image_size: int
    file_bytes: int
    load_seconds: float
    """From the path to ready."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each call with one image."""
    batches: dict[int, list[float]] = field(default_factory=dict)
    """Batch size -> seconds of each call."""
    memory_bytes: int = 0
    """Growth of the process at its peak: framework, weights, work space."""

    @property
    def p50(self) -> float:
        """Median latency of one image, seconds."""
        return float(np.median(self.latencies))

    @property
    def p99(self) -> float:
        """99th percentile of it, seconds."""
        return float(np.percentile(self.latencies, 99))

    def throughput(self) -> tuple[float, int]:
        """Images per second at the best batch size, and that size."""
        rates = {1: 1 / self.p50, **{n: n / float(np.median(s)) for n, s in self.batches.items()}}
        best = max(rates, key=lambda size: rates[size])
        return rates[best], best

    def to_dict(self) -> dict[str, Any]:
        rate, size = self.throughput()
        summary = {"p50_ms": 1e3 * self.p50, "p99_ms": 1e3 * self.p99}
        return {**asdict(self), **summary, "images_per_second": rate, "best_batch_size": size}


def bench_infer(
    models: Sequence[Path],
    *,
    batch_sizes: Sequence[int] = (8, 32),
    rounds: int = 5,
    seconds: float = 1.0,
    engine: EngineName = "torch",
    device: str = "auto",
    threads: int = 0,
) -> list[Measurement]:
    """Measure each model (run or model folder, artifact), in the order given.

    Each has its own process. They take turns, `rounds` times: `seconds` of single images, then one
    call for each of `batch_sizes`, so that other load on the machine affects all of them. Time is
    from uint8 pixels to logits. Raises UserError for a model that cannot be loaded.
    """
    if not models:
        raise UserError("no model given; name at least one run, model folder or artifact")
    if min((rounds, *batch_sizes)) < 1 or not 0 < seconds < math.inf or threads < 0:
        raise UserError("--batch-sizes, --rounds and --seconds: expected positive numbers")
    check_batch_size(max(batch_sizes, default=1), 32, "--batch-sizes")
    with Workers() as workers:
        running = [
            workers.start(str(model), _work, model, engine, device, threads) for model in models
        ]
        results: list[Measurement] = [worker.first for worker in running]
        for turn in range(rounds):
            for result, worker in zip(results, running, strict=True):
                for size in (1, *batch_sizes):
                    budget = seconds if size == 1 else 0.0
                    times = worker.ask((size, budget, WARM_UP if turn == 0 else 0))
                    kept = result.latencies if size == 1 else result.batches.setdefault(size, [])
                    kept.extend(times)
        for result, worker in zip(results, running, strict=True):
            result.memory_bytes = worker.ask(None)
        return results


def _work(model: Path, engine: EngineName, device: str, threads: int, parent: Connection) -> None:
    """A worker: load, then answer (batch size, seconds, warm-up calls) with times, and None with
    the memory that was taken."""
    before, start = resident_memory(), time.perf_counter()
    try:
        runtime = create_runtime(model, device=device, engine=engine, threads=threads)
    except UserError as error:
        parent.send(error)
        return
    loaded = time.perf_counter() - start
    side = runtime.spec.input.image_size
    size = _file_bytes(model)
    about = Measurement(str(model), runtime.name, runtime.device, side, size, loaded)
    parent.send(about)
    rng = np.random.default_rng(0)
    for request in requests(parent):
        if request is None:
            parent.send(peak_memory() - before)
            continue
        batch_size, budget, warm_up = request
        images = rng.integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8)
        for _ in range(warm_up):
            runtime.predict(images)
        times: list[float] = []
        while not times or sum(times) < budget:
            start = time.perf_counter()
            runtime.predict(images)
            times.append(time.perf_counter() - start)
        parent.send(times)
    runtime.close()


def _file_bytes(model: Path) -> int:
    """Size of what is shipped: a folder's weights, an artifact, an IR with its weights."""
    if model.is_dir():
        return load_trained(model).file.stat().st_size
    files = [model, model.with_suffix(".bin")] if model.suffix == ".xml" else [model]
    return sum(file.stat().st_size for file in files)


def _status(field_name: str) -> int | None:
    """A size from Linux's /proc, in bytes; None elsewhere."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next(line for line in text.splitlines() if line.startswith(field_name))
    return int(line.split()[1]) * 1024


def peak_memory() -> int:
    """The process's largest resident memory so far, bytes."""
    # getrusage also counts the parent's memory, as it was when this process was forked off.
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM") or used * (1 if sys.platform == "darwin" else 1024)


def resident_memory() -> int:
    """The process's resident memory, bytes."""
    return _status("VmRSS") or peak_memory()


def print_results(results: Sequence[Measurement]) -> None:
    """A table, with ratios to the first model (above 1 is better)."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, title=describe_cpu(), title_justify="left", pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in "runtime,p50 ms,p99 ms,speed,images/s,batch,speed,RAM MB,file MB".split(","):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        rate, size = result.throughput()
        table.add_row(
            Text(printable(Path(result.model).name)),
            result.runtime,
            f"{1e3 * result.p50:.2f}",
            f"{1e3 * result.p99:.2f}",
            f"{results[0].p50 / result.p50:.2f}x",
            f"{rate:.1f}",
            str(size),
            f"{rate / results[0].throughput()[0]:.2f}x",
            f"{result.memory_bytes / 1e6:.0f}",
            f"{result.file_bytes / 1e6:.1f}",
        )
    Console().print(table)
