"""What a checkpoint costs the training step: `python benchmarks/checkpoint_cost.py`.

The demo's network and batch (SE-ResNeXt50, 32 images of 32 px). Blocks of steps alternate with and
without a save at their beginning; a block is long enough for the background writing to end within
it, so the difference of the medians is all that a save takes from training: the copy of the state,
and the cores and memory bandwidth that writing and hashing use meanwhile. Its share is of 100
steps, for a save every 100 steps. Exit code 1 above 2 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from seresnext.batch import Batch
from seresnext.config import EngineConfig
from seresnext.config.recipes import demo
from seresnext.engines.base import Engine, create_engine
from seresnext.model.init import init_weights
from seresnext.model.spec import ModelSpec
from seresnext.training.checkpoint import Checkpoint
from seresnext.training.saver import Saver

LIMIT = 0.02
EVERY = 100
"""Steps between two saves."""


def build(engine: EngineConfig) -> tuple[Engine, Batch]:
    config, rng = demo(), np.random.default_rng(0)
    names = tuple("0123456789")
    spec = ModelSpec(config.model.architecture(10), names, config.augment.input_spec())
    size, rows = config.augment.image_size, config.run.batch_size
    labels = rng.integers(0, 10, rows, np.int32)
    batch = Batch(
        images=rng.integers(0, 256, (rows, size, size, 3), np.uint8),
        labels=labels,
        mixed_labels=labels,
        mix=np.ones(rows, np.float32),
        mask=np.ones(rows, bool),
        index=np.arange(rows),
    )
    return create_engine(
        spec, init_weights(spec.architecture, 0), engine, config.optim, config.loss
    ), batch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=("torch", "mindspore"), default="torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=8, help="steps of a block")
    parser.add_argument("--blocks", type=int, default=8, help="blocks of each kind")
    args = parser.parse_args()
    engine, batch = build(EngineConfig(name=args.engine, device=args.device))

    def block(saver: Saver | None, step: int) -> tuple[float, float]:
        """Seconds of a block, and of it those in which training waited for the save to begin."""
        start, held = time.perf_counter(), 0.0
        if saver:
            state = engine.state_dict()
            saver.save(Checkpoint(step, {}, state.groups()), None)
            held = time.perf_counter() - start
        for _ in range(args.steps):
            engine.fetch(engine.train_step(batch, 0.01))
        return time.perf_counter() - start, held

    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), 1)
        block(None, 0)
        plain, saving, held = [], [], []
        for number in range(args.blocks):
            plain.append(block(None, 0)[0])
            seconds, waited = block(saver, number)
            saving.append(seconds)
            held.append(waited)
            saver.wait()
        size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
    step = statistics.median(plain) / args.steps
    cost = statistics.median(saving) - statistics.median(plain)
    share = cost / (EVERY * step)
    copying = statistics.median(held)
    print(
        f"{engine.name} {engine.device}: step {step:.3f} s, checkpoint {size / 1e6:.0f} MB\n"
        f"a save takes {cost:.3f} s from training, {copying:.3f} s of it for the copy\n"
        f"every {EVERY} steps: {share:.2%} of step time (limit {LIMIT:.0%}; "
        f"{args.blocks} blocks of {args.steps} steps of each kind, medians)"
    )
    return int(share > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
