"""The processes of a run: who they are, how they meet, and their collectives."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
from mindspore import Tensor, communication, nn, ops
from mindspore.ops import operations as P
from numpy.typing import NDArray

from ...errors import UserError
from ...machine import environment_number
from ..common import World


def world_from_environment() -> World:
    """Return the world that msrun, or a rank table, describes in RANK_ID, RANK_SIZE and DEVICE_ID;
    a world of one without them. Raises UserError for numbers that do not fit."""
    size = environment_number("RANK_SIZE") or environment_number("MS_WORKER_NUM") or 1
    if size == 1:
        return World()
    rank = environment_number("RANK_ID") or environment_number("MS_NODE_ID") or 0
    if rank >= size:
        raise UserError(
            f"the environment contradicts itself: rank {rank} of {size} (RANK_ID, RANK_SIZE, "
            "MS_NODE_ID, MS_WORKER_NUM); unset these variables to train in one process"
        )
    one_machine = os.environ.get("MS_SCHED_HOST") in ("127.0.0.1", "localhost")
    device = environment_number("DEVICE_ID")
    local_rank = rank if device is None else device
    return World(rank, size, local_rank, size if one_machine else 0)


def join(world: World) -> World:
    """Start the process group, after the device is chosen; return the world with final ranks."""
    if world.size == 1:
        return world
    communication.init()
    return replace(world, rank=communication.get_rank(), size=communication.get_group_size())


def leave(world: World) -> None:
    """End the process group."""
    if world.size > 1:
        communication.release()


def from_first(arrays: dict[str, NDArray[Any]], world: World) -> dict[str, NDArray[Any]]:
    """Return rank 0's float32 arrays, on every rank."""
    if world.size == 1:
        return arrays
    flat = np.concatenate([np.ravel(a) for a in arrays.values()])
    flat = P.Broadcast(0)((Tensor(flat),))[0].asnumpy()
    parts = np.split(flat, np.cumsum([a.size for a in arrays.values()])[:-1])
    return {k: p.reshape(a.shape) for (k, a), p in zip(arrays.items(), parts, strict=True)}


def gather(row: NDArray[Any], world: World) -> NDArray[Any]:
    """float64 or int64 [n] -> [size, n]: every rank's row, in rank order, on every rank."""
    if world.size == 1:
        return row[None]
    # Sent as int32: on the CPU, AllGather of int64 keeps the low half only (MindSpore 2.10).
    rows: NDArray[Any] = P.AllGather()(Tensor(row.view(np.int32))).asnumpy()
    return np.reshape(rows.view(row.dtype), (world.size, -1))


class AllReduce(nn.Cell):
    """Sum small tensors over all ranks in the graph, in one message; the identity in a world of
    one. Gradients are summed by `nn.DistributedGradReducer`."""

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
