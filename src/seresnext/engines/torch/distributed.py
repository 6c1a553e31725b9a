"""The processes of a run and what they say to each other."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from ...errors import UserError

_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "npu": "cpu:gloo,npu:hccl"}
"""Beside a device's own backend gloo: the loop's few numbers must not wait for the device."""
_TIMEOUT = timedelta(minutes=10)
"""Longest wait in a collective, which is also the longest that one healthy rank may be busy alone
(compiling, writing to a slow disk). A connection that breaks is noticed at once; a rank that is
silent, by the training loop long before this."""


@dataclass(frozen=True)
class World:
    """This process among those of the run, as torchrun numbers them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> World:
        """Read RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE; a world of one without them."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        missing = [v for v in ("RANK", "LOCAL_RANK", "MASTER_ADDR") if v not in os.environ]
        if missing:
            raise UserError(
                f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start several "
                "processes with torchrun or `seresnext train --nproc`"
            )
        return cls(
            rank=int(os.environ["RANK"]),
            size=size,
            local_rank=int(os.environ["LOCAL_RANK"]),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", size)),
        )

    def join(self, device: torch.device) -> None:
        """Meet the other processes."""
        if self.size == 1 or dist.is_initialized():
            return
        if device.type not in _BACKENDS:
            raise UserError(f"several processes cannot train on {device.type}; use cpu")
        store, _, _ = next(rendezvous("env://", self.rank, self.size, timeout=_TIMEOUT))
        dist.init_process_group(
            _BACKENDS[device.type],
            store=dist.PrefixStore(self._attempt(store), store),
            rank=self.rank,
            world_size=self.size,
            timeout=_TIMEOUT,
        )

    def _attempt(self, store: dist.Store) -> str:
        """A name for this start of the run, which its living ranks agree on.

        torchrun keeps its store over a restart (seen in PyTorch 2.13), and a rank that finds the
        address of a dead one there fails. The number of restarts differs between machines. So
        each rank shows a number that it has just drawn, rank 0 answers whatever number it finds
        with the name, and again until that rank has thanked: a dead one never does.
        """
        if self.rank > 0:
            number = secrets.token_hex(8)
            store.set(f"hello/{self.rank}", number)
            name = store.get(f"welcome/{self.rank}/{number}").decode()
            store.set(f"thanks/{self.rank}/{name}", "")
            return name
        name = secrets.token_hex(8)
        missing = set(range(1, self.size))
        end = time.monotonic() + _TIMEOUT.total_seconds()
        while missing and time.monotonic() < end:
            for rank in missing:
                if store.check([f"hello/{rank}"]):
                    number = store.get(f"hello/{rank}").decode()
                    store.set(f"welcome/{rank}/{number}", name)
            time.sleep(0.05)
            missing = {rank for rank in missing if not store.check([f"thanks/{rank}/{name}"])}
        if missing:
            raise UserError(f"ranks {sorted(missing)} did not come within {_TIMEOUT}")
        return name

    def leave(self) -> None:
        """Take leave of the others."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over all ranks in place, in an order the backend chooses; return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """[...] -> [size, ...]: every rank's tensor, in rank order, on every rank."""
        if self.size == 1:
            return tensor[None]
        gathered = tensor.new_empty((self.size, *tensor.shape))
        dist.all_gather(list(gathered.unbind()), tensor.contiguous())
        return gathered

    def exchange(self, tensor: Tensor) -> Tensor:
        """[size, n] -> [size, n]: row r goes to rank r, which gets one row from each rank."""
        if self.size == 1:
            return tensor
        received = torch.empty_like(tensor)
        dist.all_to_all_single(received, tensor.contiguous())
        return received

    def broadcast(self, tensor: Tensor) -> None:
        """Rank 0's values become everyone's."""
        if self.size > 1:
            dist.broadcast(tensor, 0)

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        """Sum float64 or int64 values in rank order, so that every rank gets the same bits."""
        assert values.dtype in (np.float64, np.int64), values.dtype
        if self.size == 1:
            return values.copy()
        rows = self.gather(torch.tensor(np.atleast_1d(values))).numpy()
        total = rows[0].copy()
        for row in rows[1:]:
            total += row
        return total.reshape(values.shape)
