"""Batch statistics over all ranks instead of per rank (`engine.sync_bn`)."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops
from mindspore.ops import operations as P

from ...model.architecture import BN_EPS, BN_MOMENTUM
from .reductions import mean_over_pixels

_cast = P.Cast()


class SyncBatchNorm(nn.Cell):
    """Training-mode BN over the batches of `ranks` ranks, which must be of equal size.

    Has the signature of `P.BatchNorm`. MindSpore's own has no CPU kernel.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__(auto_prefix=False)
        self.ranks = ranks
        # Every rank's sum depends on every rank's term; the operator's gradient sums over ranks.
        self.sum = P.AllReduce()

    def construct(self, x, gamma, beta, mean, variance):  # type: ignore[no-untyped-def]
        """[B, C, H, W] -> a tuple with the same shape and type; computed in float32."""
        wide = _cast(x, ms.float32)
        # Mean first, then the variance around it: E[x^2] - E[x]^2 would cancel in float32.
        new_mean = self.sum(mean_over_pixels(wide).mean(0)) / self.ranks
        centred = wide - new_mean.reshape(1, -1, 1, 1)
        new_variance = self.sum(mean_over_pixels(ops.square(centred)).mean(0)) / self.ranks
        count = self.ranks * x.shape[0] * x.shape[2] * x.shape[3]
        unbiased = ops.stop_gradient(new_variance) * (count / (count - 1))
        ops.assign(mean, mean + BN_MOMENTUM * (ops.stop_gradient(new_mean) - mean))
        ops.assign(variance, variance + BN_MOMENTUM * (unbiased - variance))
        scale = (gamma * ops.rsqrt(new_variance + BN_EPS)).reshape(1, -1, 1, 1)
        return (_cast(centred * scale + beta.reshape(1, -1, 1, 1), x.dtype),)
