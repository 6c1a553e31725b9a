"""A tiny network of the family and random batches for it: small enough for hundreds of steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from seresnext.batch import Batch
from seresnext.config import LossConfig, OptimConfig
from seresnext.model.architecture import architecture
from seresnext.model.spec import InputSpec, ModelSpec

CLASSES = 5
SIDE = 32


def tiny_spec(**options: Any) -> ModelSpec:
    """One block per stage, four groups: about half a million weights."""
    settings: dict[str, Any] = {"layers": (1, 1, 1, 1), "cardinality": 4, "base_width": 8}
    arch = architecture("seresnext50_32x4d", num_classes=CLASSES, **(settings | options))
    return ModelSpec(arch, tuple(f"class {k}" for k in range(CLASSES)), InputSpec(SIDE))


def optim_and_loss(options: dict[str, Any]) -> tuple[OptimConfig, LossConfig]:
    """The two groups that have these fields between them."""
    loss = {name: value for name, value in options.items() if name in vars(LossConfig())}
    optim = {name: value for name, value in options.items() if name not in loss}
    return OptimConfig(**optim), LossConfig(**loss)


def random_batch(size: int, seed: int = 0, side: int = SIDE) -> Batch:
    """Images of noise around a brightness that goes with the class, so that they can be learnt."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, size).astype(np.int32)
    noise = rng.integers(0, 100, (size, side, side, 3))
    images = (noise + 35 * labels[:, None, None, None]).astype(np.uint8)
    return Batch(
        images=images,
        labels=labels,
        mixed_labels=labels.copy(),
        mix=np.ones(size, np.float32),
        mask=np.ones(size, bool),
        index=np.arange(size),
        seed=seed,
    )
