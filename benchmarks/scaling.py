"""From one process to two on one machine: `python benchmarks/scaling.py`.

Each process computes with one thread on its own share of the batch (the demo's network, 32 images
of 32 px per process), by gloo on the CPU. Three measurements, in interleaved rounds:

    alone      one process
    apart      two processes at once that do not talk: what sharing caches and memory costs
    together   two ranks of one run: gradients, BN statistics and sums are reduced

    efficiency           = alone / together, in seconds per step
    communication share  = (together - apart) / together, waiting for the slower rank included
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=32, help="images per process")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="timed steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--virtual-shards", type=int, default=0, help="of both ranks together")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    cores = os.cpu_count() or 1
    if cores < 2:
        sys.exit("scaling.py: needs two cores")
    rounds = [
        {kind: measure(kind) for kind in ("alone", "apart", "together")} for _ in range(args.rounds)
    ]
    alone, apart, together = (
        min(r[kind] for r in rounds) for kind in ("alone", "apart", "together")
    )
    print(
        f"seresnext50_32x4d, {args.batch_size} images of {args.image_size} px per process, one "
        f"thread each, {cores} cores; best of {args.rounds} rounds, medians of {args.steps} steps"
    )
    for kind, seconds, processes in (
        ("alone", alone, 1),
        ("apart", apart, 2),
        ("together", together, 2),
    ):
        rate = processes * args.batch_size / seconds
        print(f"{kind:<9} {seconds * 1000:7.0f} ms per step  {rate:6.1f} images/s")
    print(f"efficiency from 1 to 2 processes  {alone / together:.1%}")
    print(f"communication share of a step     {max(together - apart, 0) / together:.1%}")
    print(f"sharing the machine               {max(apart - alone, 0) / together:.1%}")


def measure(kind: str) -> float:
    """Seconds per step of the slower process."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        count = 1 if kind == "alone" else 2
        processes = []
        for rank in range(count):
            world = {
                **{"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)},
                **{"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            }
            environment = {**os.environ, **(world if kind == "together" else {}), "N": str(count)}
            words = [sys.executable, *sys.argv, "--worker", folder]
            processes.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE))
        results = [json.loads(process.communicate(timeout=900)[0]) for process in processes]
    return max(results)


def work(args: argparse.Namespace) -> None:
    """One process: prints its median seconds per step."""
    from seresnext.batch import Batch
    from seresnext.config import EngineConfig
    from seresnext.config.recipes import demo
    from seresnext.engines.base import create_engine
    from seresnext.model.init import init_weights
    from seresnext.model.spec import ModelSpec

    config, rng = demo(), np.random.default_rng(0)
    names = tuple("0123456789")
    spec = ModelSpec(config.model.architecture(10), names, config.augment.input_spec())
    shards = args.virtual_shards
    if shards and "RANK" not in os.environ:
        shards //= 2  # as many as each of two ranks computes
    engine = create_engine(
        spec,
        init_weights(spec.architecture, 0),
        EngineConfig(name="torch", device="cpu", threads=1, virtual_shards=shards),
        config.optim,
        config.loss,
    )
    size, rows = args.image_size, args.batch_size
    labels = rng.integers(0, 10, rows, np.int32)
    batch = Batch(
        images=rng.integers(0, 256, (rows, size, size, 3), np.uint8),
        labels=labels,
        mixed_labels=labels,
        mix=np.ones(rows, np.float32),
        mask=np.ones(rows, bool),
        index=np.arange(rows),
    )
    seconds = []
    for step in range(WARM_UP + args.steps):
        if step == WARM_UP:
            meet(args.worker, int(os.environ["N"]))
        start = time.perf_counter()
        engine.fetch(engine.train_step(batch, 0.01))
        seconds.append(time.perf_counter() - start)
    meet(args.worker, 2 * int(os.environ["N"]))  # none is alone while another still measures
    engine.close()
    print(json.dumps(statistics.median(seconds[WARM_UP:])))


def meet(folder: Path, files: int) -> None:
    """Wait until `files` have been left in `folder`, one of them by this process."""
    tempfile.mkstemp(dir=folder)
    while len(list(folder.iterdir())) < files:
        time.sleep(0.01)


if __name__ == "__main__":
    main()
