"""Write the network as AIR, which Ascend's tools compile to an .om. Not run on hardware."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.mindspore.device import prepare  # first: it quiets MindSpore's import

import mindspore as ms  # isort: skip

from ..errors import UserError
from ..runtimes.artifact import Artifact
from .mindir import ExportedNetwork, exported


def versions() -> str:
    """The format and what writes it, with versions."""
    return f"AIR, mindspore {ms.__version__}"


def build(artifact: Artifact, weights: Mapping[str, NDArray[Any]]) -> ExportedNetwork:
    """The network as cells. Raises UserError off Ascend."""
    if prepare("auto", what="--format air") != "Ascend":
        raise UserError(
            "--format air: MindSpore writes AIR on Ascend only, and there is no Ascend device "
            "here; export mindir, which Ascend's converter reads too"
        )
    return ExportedNetwork(artifact, weights)


def write(network: ExportedNetwork, artifact: Artifact, path: Path) -> None:
    """Write the network to `path`; AIR has a fixed batch size, by default 1."""
    pixels = ms.Tensor(np.zeros((artifact.batch_size or 1, *artifact.input_shape), np.float32))
    path.write_bytes(exported(network, pixels, "air"))
