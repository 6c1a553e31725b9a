"""The processes of a run and what they say to each other."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
from mindspore import Tensor, communication, nn, ops
from mindspore.ops import operations as P


@dataclass(frozen=True)
class World:
    """This process among those of the run, as msrun (or a rank table) numbers them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """Processes on this machine; 0 where the environment does not say."""

    @classmethod
    def from_environment(cls) -> World:
        """Read RANK_ID, RANK_SIZE and DEVICE_ID; a world of one without them."""
        size = int(os.environ.get("RANK_SIZE") or os.environ.get("MS_WORKER_NUM") or 1)
        if size == 1:
            return cls()
        rank = int(os.environ.get("RANK_ID") or os.environ.get("MS_NODE_ID") or 0)
        here = os.environ.get("MS_SCHED_HOST") in ("127.0.0.1", "localhost")
        return cls(rank, size, int(os.environ.get("DEVICE_ID", rank)), size if here else 0)

    def join(self) -> World:
        """Meet the other processes, after the device is chosen; the world with its final ranks."""
        if self.size == 1:
            return self
        communication.init()
        return replace(self, rank=communication.get_rank(), size=communication.get_group_size())

    def from_first(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rank 0's float32 arrays, on every rank."""
        if self.size == 1:
            return arrays
        flat = np.concatenate([np.ravel(a) for a in arrays.values()])
        flat = P.Broadcast(0)((Tensor(flat),))[0].asnumpy()
        parts = np.split(flat, np.cumsum([a.size for a in arrays.values()])[:-1])
        return {k: p.reshape(a.shape) for (k, a), p in zip(arrays.items(), parts, strict=True)}

    def leave(self) -> None:
        """Take leave of the others."""
        if self.size > 1:
            communication.release()

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        """Sum float64 or int64 values in rank order, so that every rank gets the same bits."""
        assert values.dtype in (np.float64, np.int64), values.dtype
        if self.size == 1:
            return values.copy()
        # Travels as int32: on the CPU, AllGather of int64 keeps the low half only (MindSpore 2.10).
        bits = Tensor(np.atleast_1d(values).ravel().view(np.int32))
        rows = P.AllGather()(bits).asnumpy().view(values.dtype).reshape(self.size, -1)
        total = rows[0].copy()
        for row in rows[1:]:
            total += row
        return total.reshape(values.shape)


class AllReduce(nn.Cell):
    """Sum small tensors over all ranks in the graph, in one message (gradients:
    `nn.DistributedGradReducer`); nothing to do in a world of one."""

    def __init__(self, world: World) -> None:
        super().__init__(auto_prefix=False)
        self.alone = world.size == 1
        self.sum = None if self.alone else P.AllReduce()
        self.map = ops.HyperMap()

    def construct(self, tensors):  # type: ignore[no-untyped-def]
        """A tuple of float32 tensors -> the tuple of their sums."""
        if self.alone:
            return tensors
        flat = self.sum(ops.concat(self.map(_flatten, tensors)))
        summed, start = (), 0
        for tensor in tensors:
            part = _slice(flat, (start,), (tensor.size,))
            summed = (*summed, _reshape(part, tensor.shape))
            start += tensor.size
        return summed


_reshape, _slice = P.Reshape(), P.Slice()


def _flatten(tensor):  # type: ignore[no-untyped-def]
    return _reshape(tensor, (-1,))
