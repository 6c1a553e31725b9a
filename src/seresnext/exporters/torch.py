"""Write the network as a torch.export program (.pt2), BN folded and without pickled parts."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from ..runtimes.artifact import INPUT_NAME, METADATA_KEY, Artifact
from ..runtimes.torch import ExportedNetwork


def versions() -> str:
    """The format and what writes it, with versions."""
    return f"torch.export, torch {torch.__version__}"


def build(artifact: Artifact, weights: Mapping[str, NDArray[Any]]) -> ExportedNetwork:
    """The network as a module, in the artifact's precision and with its preprocessing."""
    return ExportedNetwork(artifact, weights)


def write(network: ExportedNetwork, artifact: Artifact, path: Path) -> None:
    """Trace the network with a free batch dimension and write it to `path`."""
    dtype = torch.uint8 if artifact.with_preprocessing else torch.float32
    example = torch.zeros(2, *artifact.input_shape, dtype=dtype)
    batch = {INPUT_NAME: {0: torch.export.Dim("batch")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's warnings about its own internals
        program = torch.export.export(network, (example,), dynamic_shapes=batch)
        program.example_inputs = None  # otherwise they would be pickled into the archive
        file = io.BytesIO()  # on a full disk, PyTorch's own writer ends the process
        torch.export.save(program, file, extra_files={METADATA_KEY: artifact.to_json()})
    path.write_bytes(file.getbuffer())
