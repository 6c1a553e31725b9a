"""What both `train_step_*.py` measure: one step of `seresnext50_32x4d`, 1000 classes, float32."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from seresnext.batch import Batch
from seresnext.config import EngineConfig, LossConfig, OptimConfig
from seresnext.engines.base import create_engine
from seresnext.model.architecture import architecture
from seresnext.model.init import init_weights
from seresnext.model.spec import ModelSpec

NAME = "seresnext50_32x4d"
SMOOTHING, LR, MOMENTUM, DECAY = 0.1, 0.1, 0.9, 1e-4
Step = Callable[[], object]


def pixels_and_labels(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [batch, size, size, 3] and int32 [batch]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return images, rng.integers(0, 1000, batch).astype(np.int32)


def engine_step(config: EngineConfig, batch: int, size: int) -> Step:
    """A step of our engine, from uint8 pixels to the updated weights and the loss."""
    arch = architecture(NAME)
    engine = create_engine(
        ModelSpec(arch, tuple(map(str, range(1000)))),
        init_weights(arch, 0),
        config,
        OptimConfig(momentum=MOMENTUM, weight_decay=DECAY),
        LossConfig(label_smoothing=SMOOTHING),
    )
    images, labels = pixels_and_labels(batch, size)
    whole = np.ones(batch, np.float32)
    data = Batch(images, labels, labels, whole, whole.astype(bool), np.arange(batch))
    return lambda: engine.fetch(engine.train_step(data, LR))


def timed(step: Step) -> tuple[float, float]:
    """Wall and processor seconds of one step."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu
