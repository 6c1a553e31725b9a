"""The evaluation network as a sequence of nine kinds of operation, for every exporter.

BN is folded into the convolution before it, so the network is convolutions, pools, gates and one
linear layer. `walk` is the only description of it for export; each format implements `Ops`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..model.architecture import BN_EPS
from ..model.spec import ModelSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Conv:
    """A convolution with bias, padded by half its kernel."""

    kernel: NDArray[Any]
    """float32 [out, in / groups, k, k]."""
    bias: NDArray[Any]
    """float32 [out]."""
    stride: int = 1
    groups: int = 1


@dataclass(frozen=True)
class Linear:
    weight: NDArray[Any]
    """float32 [out, in]."""
    bias: NDArray[Any]
    """float32 [out]."""


class Ops(Protocol[T]):
    """The nine operations that a format implements. `T` is a value in it: a name, node or tensor.

    `name` is unique in the network and is written into the artifact.
    """

    def conv(self, x: T, name: str, layer: Conv) -> T: ...
    def relu(self, x: T, name: str) -> T: ...
    def sigmoid(self, x: T, name: str) -> T: ...
    def max_pool(self, x: T, name: str, before: int, after: int) -> T:
        """3x3 with stride 2, padded by so many rows and columns before and after."""
        ...

    def average_pool(self, x: T, name: str) -> T:
        """2x2 with stride 2; the last window of an odd side has one row (or column)."""
        ...

    def mean(self, x: T, name: str) -> T:
        """[B, C, H, W] -> [B, C, 1, 1]."""
        ...

    def multiply(self, x: T, gate: T, name: str) -> T: ...
    def add(self, x: T, y: T, name: str) -> T: ...
    def linear(self, x: T, name: str, layer: Linear) -> T:
        """[B, C, 1, 1] -> [B, K]."""
        ...


def walk(
    ops: Ops[T], spec: ModelSpec, weights: Mapping[str, NDArray[Any]], x: T, group_width: int = 1
) -> tuple[T, T]:
    """Call `ops` for every operation from normalised images `x` [B, 3, S, S] to logits [B, K].

    Returns the logits, and the last feature map [B, C, h, w]. `group_width`: see `widen`.
    """
    arch = spec.architecture
    layer = _Folder(weights, group_width)
    if arch.stem == "deep":
        for position in (0, 3):
            name = f"conv1.{position}"
            conv = layer.conv(name, f"conv1.{position + 1}", stride=2 if position == 0 else 1)
            x = ops.relu(ops.conv(x, name, conv), f"{name}.relu")
        conv, name = layer.conv("conv1.6", "bn1"), "conv1.6"
    else:
        conv, name = layer.conv("conv1", "bn1", stride=2), "conv1"
    x = ops.relu(ops.conv(x, name, conv), f"{name}.relu")
    # `same` pads an even side at its end only (model/architecture.py).
    even = spec.input.image_size % 4 in (0, 3)
    before = 0 if arch.max_pool == "same" and even else 1
    x = ops.max_pool(x, "maxpool", before, 1)
    for b in arch.blocks():
        shortcut = x
        if b.has_downsample:
            name, pooled = f"{b.name}.downsample", arch.downsample == "avg"
            if pooled and b.stride > 1:
                shortcut = ops.average_pool(shortcut, f"{name}.pool")
            first = 1 if pooled else 0
            conv = layer.conv(f"{name}.{first}", f"{name}.{first + 1}", 1 if pooled else b.stride)
            shortcut = ops.conv(shortcut, name, conv)
        for number, stride, groups in ((1, 1, 1), (2, b.stride, arch.cardinality)):
            name = f"{b.name}.conv{number}"
            conv = layer.conv(name, f"{b.name}.bn{number}", stride, groups)
            x = ops.relu(ops.conv(x, name, conv), f"{name}.relu")
        x = ops.conv(x, f"{b.name}.conv3", layer.conv(f"{b.name}.conv3", f"{b.name}.bn3"))
        gate = ops.mean(x, f"{b.name}.se.mean")
        gate = ops.conv(gate, f"{b.name}.se.fc1", layer.biased(f"{b.name}.se.fc1"))
        gate = ops.relu(gate, f"{b.name}.se.relu")
        gate = ops.conv(gate, f"{b.name}.se.fc2", layer.biased(f"{b.name}.se.fc2"))
        gate = ops.sigmoid(gate, f"{b.name}.se.gate")
        x = ops.add(ops.multiply(x, gate, f"{b.name}.se"), shortcut, f"{b.name}.add")
        x = ops.relu(x, f"{b.name}.relu")
    classifier = Linear(weights["fc.weight"], layer.bias("fc"))
    return ops.linear(ops.mean(x, "pool"), "logits", classifier), x


def class_activation(weights: Mapping[str, NDArray[Any]]) -> Conv:
    """Return the layer from the last feature map to class activation maps [B, K, h, w].

    It is the classifier without its bias, at each place (see `report.maps`).
    """
    rows = weights["fc.weight"]
    return Conv(rows[:, :, None, None], np.zeros(len(rows), np.float32))


@dataclass(frozen=True)
class _Folder:
    weights: Mapping[str, NDArray[Any]]
    group_width: int

    def conv(self, conv: str, bn: str, stride: int = 1, groups: int = 1) -> Conv:
        """A convolution with the following BN folded in, computed in float64."""
        gamma, beta, mean, var = (
            self.weights[f"{bn}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + BN_EPS)
        kernel = self.weights[f"{conv}.weight"] * scale[:, None, None, None]
        kernel, groups = widen(kernel.astype(np.float32), groups, self.group_width)
        return Conv(kernel, (beta - mean * scale).astype(np.float32), stride, groups)

    def biased(self, name: str) -> Conv:
        return Conv(self.weights[f"{name}.weight"], self.bias(name))

    def bias(self, name: str) -> NDArray[Any]:
        """Zeros where the network has none."""
        zeros = np.zeros(len(self.weights[f"{name}.weight"]), np.float32)
        return self.weights.get(f"{name}.bias", zeros)


def widen(kernel: NDArray[Any], groups: int, width: int) -> tuple[NDArray[Any], int]:
    """Merge neighbouring groups until each has at least `width` channels, with zeros between.

    The result is the same. CPU kernels compute 8 or 16 channels at once: groups of 4 or 8 leave
    most lanes idle or take a slow path, so the zeros save more than they cost
    (docs/benchmarks.md). Returns the kernel and the number of groups.
    """
    per_input = kernel.shape[1]
    if groups == 1 or per_input >= width:
        return kernel, groups
    merged = math.gcd(groups, -(-width // per_input))
    per_output = kernel.shape[0] // groups
    wide = np.zeros((kernel.shape[0], per_input * merged, *kernel.shape[2:]), kernel.dtype)
    for group in range(groups):
        rows = slice(group * per_output, (group + 1) * per_output)
        start = group % merged * per_input
        wide[rows, start : start + per_input] = kernel[rows]
    return wide, groups // merged
