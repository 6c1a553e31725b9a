"""Named tensors laid end to end in one buffer, so that one operation reaches all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_ALIGN = 16
"""Tensors start at multiples of 16 floats: a cache line, and what vector loads want."""


class Flat:
    """Float32 tensors as views of one buffer: averaging, comparing, sending it moves all.

    Kernels lie in memory as the convolutions read them: channels last if asked for.
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
        """Zeros in the same layout."""
        return Flat(self.shapes, self.device, self.channels_last)

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy arrays of these names in; others are left out."""
        for name, view in self.views.items():
            view.copy_(torch.tensor(arrays[name]))

    def arrays(self) -> dict[str, np.ndarray]:
        """A copy on the host, in C order."""
        host = self.buffer.cpu()
        on_host = Flat(self.shapes, host.device, self.channels_last, host)
        return {k: np.array(v.numpy(), order="C", copy=True) for k, v in on_host.views.items()}


def _strides(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    if channels_last and len(shape) == 4:
        _, c, h, w = shape
        return (h * w * c, 1, w * c, c)
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
