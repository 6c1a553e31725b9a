"""Named tensors laid end to end in one buffer, so that one operation reaches all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model.architecture import is_buffer

_ALIGN = 16
"""Tensors start at multiples of 16 floats: a cache line, and the alignment of vector loads."""


class Flat:
    """Float32 tensors as views of one buffer: one operation averages, compares or sends them all.

    Convolution kernels lie in memory as the convolutions read them: channels last if asked for.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        device: torch.device,
        channels_last: bool,
        buffer: Tensor | None = None,
    ) -> None:
        self.shapes, self.device, self.channels_last = dict(shapes), device, channels_last
        starts, end = [], 0
        for shape in shapes.values():
            starts.append(end)
            end += -(-math.prod(shape) // _ALIGN) * _ALIGN
        self.buffer = torch.zeros(end, device=device) if buffer is None else buffer
        self.views = {
            name: self.buffer.as_strided(shape, _strides(shape, channels_last), start)
            for (name, shape), start in zip(shapes.items(), starts, strict=True)
        }

    def like(self) -> Flat:
        """Return zeros in the same layout."""
        return Flat(self.shapes, self.device, self.channels_last)

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy the arrays of these names; others are ignored."""
        for name, view in self.views.items():
            view.copy_(torch.tensor(arrays[name]))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return a copy on the host, in C order."""
        host = self.buffer.cpu()
        on_host = Flat(self.shapes, host.device, self.channels_last, host)
        return {k: np.array(v.numpy(), order="C", copy=True) for k, v in on_host.views.items()}


class NetworkTensors:
    """A network's weights and its BN statistics, each kind in one buffer."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], device: torch.device, channels_last: bool
    ) -> None:
        trained = {name: shape for name, shape in shapes.items() if not is_buffer(name)}
        measured = {name: shape for name, shape in shapes.items() if is_buffer(name)}
        self.shapes = shapes
        self.weights = Flat(trained, device, channels_last)
        self.statistics = Flat(measured, device, channels_last)
        self.buffers = (self.weights.buffer, self.statistics.buffer)
        self.views = self.weights.views | self.statistics.views

    def like(self) -> NetworkTensors:
        """Return zeros in the same layout."""
        return NetworkTensors(self.shapes, self.weights.device, self.weights.channels_last)

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays of all names."""
        self.weights.load(arrays)
        self.statistics.load(arrays)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return a copy on the host, in canonical order."""
        arrays = self.weights.arrays() | self.statistics.arrays()
        return {name: arrays[name] for name in self.shapes}


def _strides(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    if channels_last and len(shape) == 4:
        _, c, h, w = shape
        return (h * w * c, 1, w * c, c)
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
