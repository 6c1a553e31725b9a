"""The seam between a shipped artifact and whoever asks it: a runtime only predicts."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from ..model.spec import ModelSpec


@runtime_checkable
class Runtime(Protocol):
    """A loaded artifact. Engines have the same `predict`, `spec` and `close`."""

    name: str
    device: str
    spec: ModelSpec

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 logits [N, K]; any N, from one thread at a time."""
        ...

    def close(self) -> None: ...
