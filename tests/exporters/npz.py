"""The exporter of a format for tests: metadata and canonical weights, nothing else."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from seresnext.runtimes.artifact import Artifact

START = b"NPZ\n"


def versions() -> str:
    return f"npz of NumPy {np.__version__}"


def build(artifact: Artifact, weights: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    return weights


def write(network: Mapping[str, np.ndarray], artifact: Artifact, path: Path) -> None:
    content = io.BytesIO()
    np.savez(content, **network)
    path.write_bytes(START + artifact.to_json().encode() + b"\n" + content.getvalue())
