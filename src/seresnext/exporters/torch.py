"""Write the network as a torch.export program (.pt2), BN folded and without pickled parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtimes.artifact import INPUT_NAME, METADATA_KEY, Artifact
from .graph import Conv, Linear, normalisation, walk

Step = tuple[tuple[int, ...], Callable[..., Tensor]]
"""Positions of the operands among the values so far, and what is done to them."""


class ExportedNetwork(nn.Module):
    """The steps of `network.walk` in a row."""

    scale: Tensor
    offset: Tensor

    def __init__(self, artifact: Artifact, weights: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.artifact = artifact
        recorder = _Ops()
        walk(recorder, artifact.spec, weights, 0)
        self.layers, self._steps = nn.ModuleDict(recorder.layers), recorder.steps
        if artifact.precision == "fp16":
            self.half()
        if artifact.with_preprocessing:
            scale, offset = (torch.tensor(v) for v in normalisation(artifact.spec.input))
            self.register_buffer("scale", scale[:, None, None])
            self.register_buffer("offset", offset[:, None, None])
        self.eval().requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`pixel_values` as the artifact's `with_preprocessing` says -> float32 [B, K]."""
        x = pixel_values
        if self.artifact.with_preprocessing:
            x = x.permute(0, 3, 1, 2).float() * self.scale + self.offset
        if self.artifact.precision == "fp16":
            x = x.half()
        values = [x]
        for operands, run in self._steps:
            values.append(run(*(values[i] for i in operands)))
        return values[-1].float()


class _Ops:
    """`network.Ops` as steps; a value is its position."""

    def __init__(self) -> None:
        self.layers: dict[str, nn.Module] = {}
        self.steps: list[Step] = []

    def _step(self, run: Callable[..., Tensor], *operands: int) -> int:
        self.steps.append((operands, run))
        return len(self.steps)

    def _layer(
        self, layer: nn.Module, name: str, weight: np.ndarray, bias: np.ndarray
    ) -> nn.Module:
        layer.weight, layer.bias = (nn.Parameter(torch.tensor(v)) for v in (weight, bias))
        self.layers[name.replace(".", "_")] = layer
        return layer

    def conv(self, x: int, name: str, layer: Conv) -> int:
        out, per_group, k, _ = layer.kernel.shape
        channels, groups = per_group * layer.groups, layer.groups
        conv = nn.Conv2d(channels, out, k, layer.stride, k // 2, groups=groups, device="meta")
        return self._step(self._layer(conv, name, layer.kernel, layer.bias), x)

    def relu(self, x: int, name: str) -> int:
        return self._step(F.relu, x)

    def sigmoid(self, x: int, name: str) -> int:
        return self._step(torch.sigmoid, x)

    def max_pool(self, x: int, name: str, before: int, after: int) -> int:
        # Padding at the end only is what `ceil_mode` does at an even side.
        return self._step(lambda v: F.max_pool2d(v, 3, 2, before, ceil_mode=before < after), x)

    def average_pool(self, x: int, name: str) -> int:
        return self._step(lambda v: F.avg_pool2d(v, 2, 2, ceil_mode=True), x)

    def mean(self, x: int, name: str) -> int:
        return self._step(lambda v: v.mean((2, 3), keepdim=True), x)

    def multiply(self, x: int, gate: int, name: str) -> int:
        return self._step(torch.mul, x, gate)

    def add(self, x: int, y: int, name: str) -> int:
        return self._step(torch.add, x, y)

    def linear(self, x: int, name: str, layer: Linear) -> int:
        classes, features = layer.weight.shape
        fc = nn.Linear(features, classes, device="meta")
        run = self._layer(fc, name, layer.weight, layer.bias)
        return self._step(lambda v: run(v.flatten(1)), x)


def versions() -> str:
    """What wrote an artifact, for its report."""
    return f"torch.export, torch {torch.__version__}"


def build(artifact: Artifact, weights: Mapping[str, np.ndarray]) -> ExportedNetwork:
    return ExportedNetwork(artifact, weights)


def write(network: ExportedNetwork, artifact: Artifact, path: Path) -> None:
    """Trace the network with a free batch dimension and write it to `path`."""
    dtype = torch.uint8 if artifact.with_preprocessing else torch.float32
    example = torch.zeros(2, *artifact.input_shape, dtype=dtype)
    batch = {INPUT_NAME: {0: torch.export.Dim("batch")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its own internals
        program = torch.export.export(network, (example,), dynamic_shapes=batch)
        program.example_inputs = None  # they would be pickled into the archive; now a None is
        torch.export.save(program, path, extra_files={METADATA_KEY: artifact.to_json()})
