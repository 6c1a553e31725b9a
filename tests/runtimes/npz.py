"""The runtime of a format for tests; the torch engine computes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from seresnext.config import EngineConfig
from seresnext.engines.base import create_engine
from seresnext.runtimes.artifact import read_artifact, read_file


class NpzRuntime:
    name = "npz"

    def __init__(self, path: Path, *, device: str = "auto", threads: int = 0) -> None:
        _, text, content = read_file(path).split(b"\n", 2)
        self.artifact = read_artifact(text.decode(), path)
        self.spec = self.artifact.spec
        weights = dict(np.load(io.BytesIO(content)))
        config = EngineConfig(device=device, threads=threads)
        self._engine = create_engine(self.spec, weights, config)
        self.device = self._engine.device

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self._engine.predict(images)

    def close(self) -> None:
        self._engine.close()
