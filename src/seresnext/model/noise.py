"""Random factors of stochastic depth and dropout, drawn with NumPy so that engines agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .architecture import Architecture


def draw_noise(arch: Architecture, batch_size: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Factors to multiply with, from `Batch.seed`: 0 or, to keep the mean, 1 / keep rate.

    `drop_path`: float32 [B, blocks], one factor per sample and block (arXiv:1603.09382), present
    if the architecture's `drop_path` is above 0. `dropout`: float32 [B, num_features], present if
    `dropout` is above 0.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0xD509]))
    noise: dict[str, NDArray[np.float32]] = {}
    if arch.drop_path > 0:
        keep = 1 - np.array([b.drop_path for b in arch.blocks()], np.float32)
        kept = rng.random((batch_size, len(keep)), dtype=np.float32) < keep
        noise["drop_path"] = kept.astype(np.float32) / keep
    if arch.dropout > 0:
        keep_rate = np.float32(1 - arch.dropout)
        kept = rng.random((batch_size, arch.num_features), dtype=np.float32) < keep_rate
        noise["dropout"] = kept.astype(np.float32) / keep_rate
    return noise
