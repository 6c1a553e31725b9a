"""Sums over pixels as matrix products.

MindSpore's own ReduceSum and ReduceMean over the two last axes run at a few per cent of the
memory's speed on the CPU; a product with a vector of ones gives the same sums 5 to 8 times as
fast, forward and backward.
"""

from __future__ import annotations

from mindspore import nn, ops
from mindspore.ops import operations as P


def mean_over_pixels(x):  # type: ignore[no-untyped-def]
    """[B, C, H, W] -> [B, C]."""
    _, c, h, w = x.shape
    share = ops.full((h * w, 1), 1 / (h * w), dtype=x.dtype)
    return ops.matmul(x.reshape(-1, h * w), share).reshape(-1, c)


def sum_over_pixels(x):  # type: ignore[no-untyped-def]
    """[B, C, H, W] -> [B, C]."""
    _, c, h, w = x.shape
    return ops.matmul(x.reshape(-1, h * w), ops.ones((h * w, 1), x.dtype)).reshape(-1, c)


class Gate(nn.Cell):
    """Scale every channel of every sample: [B, C, H, W] x [B, C] -> [B, C, H, W]."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.multiply = P.Mul()

    def construct(self, x, gate):  # type: ignore[no-untyped-def]
        return self.multiply(x, gate.reshape(*gate.shape, 1, 1))

    def bprop(self, x, gate, out, dout):  # type: ignore[no-untyped-def]
        return (
            self.multiply(dout, gate.reshape(*gate.shape, 1, 1)),
            sum_over_pixels(self.multiply(dout, x)),
        )
