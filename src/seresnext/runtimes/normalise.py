"""Normalisation of pixels, for runtimes that do it in NumPy and exporters that write it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.spec import InputSpec


def normalisation(spec: InputSpec) -> tuple[NDArray[Any], NDArray[Any]]:
    """float32 [3] scale and offset: pixel * scale + offset = (pixel / 255 - mean) / std."""
    mean, std = np.array(spec.mean), np.array(spec.std)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def normalise(images: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """uint8 [N, S, S, 3] -> float32 [N, 3, S, S], contiguous."""
    scale, offset = normalisation(spec)
    out = np.empty((len(images), 3, *images.shape[1:3]), np.float32)
    for channel in range(3):
        np.multiply(images[..., channel], scale[channel], out=out[:, channel])
        out[:, channel] += offset[channel]
    return out
