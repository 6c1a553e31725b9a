"""The processes of a run: who they are, how they meet, and their collectives."""

from __future__ import annotations

import os
import secrets
import time
from datetime import timedelta
from socket import if_nameindex

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ...errors import UserError
from ...machine import environment_number
from ..common import World

_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "npu": "cpu:gloo,npu:hccl"}
"""Gloo beside a device's own backend: the loop's few numbers must not wait for the device."""
_LOOPBACK = "lo"
"""Gloo would look up this machine's own name, which need not have an address."""
_TIMEOUT = timedelta(minutes=10)
"""Longest wait in a collective, and so the longest that one healthy rank may be busy alone
(compiling, writing to a slow disk). A broken connection is noticed at once; a silent rank is
noticed by the training loop's heartbeat long before this."""


def world_from_environment() -> World:
    """Return the world that torchrun describes in RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE;
    a world of one without them. Raises UserError when only some of them are set, or they do not
    fit each other."""
    size = environment_number("WORLD_SIZE") or 1
    if size == 1:
        return World()
    missing = [v for v in ("RANK", "LOCAL_RANK", "MASTER_ADDR") if not os.environ.get(v)]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start several "
            "processes with torchrun or `seresnext train --nproc`, or unset WORLD_SIZE"
        )
    rank, local_rank = environment_number("RANK") or 0, environment_number("LOCAL_RANK") or 0
    local_size = environment_number("LOCAL_WORLD_SIZE") or size
    if rank >= size or local_rank >= local_size or local_size > size:
        raise UserError(
            f"the environment contradicts itself: rank {rank} of {size}, local rank {local_rank} "
            f"of {local_size} (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE); unset these "
            "variables to train in one process"
        )
    return World(rank, size, local_rank, local_size)


def join(world: World, device: torch.device) -> None:
    """Start the process group of these ranks."""
    if world.size == 1 or dist.is_initialized():
        return
    if device.type not in _BACKENDS:
        raise UserError(f"several processes cannot train on {device.type}; use cpu")
    if world.local_size == world.size and _LOOPBACK in (name for _, name in if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)
    store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=_TIMEOUT))
    dist.init_process_group(
        _BACKENDS[device.type],
        store=PrefixStore(_agree_on_name(store, world), store),
        rank=world.rank,
        world_size=world.size,
        timeout=_TIMEOUT,
    )


def _agree_on_name(store: Store, world: World) -> str:
    """Return a name for this start of the run, the same on all of its living ranks.

    torchrun keeps its store over a restart (seen in PyTorch 2.13), and a rank that finds the
    address of a dead rank there fails. The number of restarts differs between machines. So each
    rank writes a random number, rank 0 answers every number it finds with the name, and repeats
    that until the rank has acknowledged it; a dead rank never does.
    """
    if world.rank > 0:
        number = secrets.token_hex(8)
        store.set(f"hello/{world.rank}", number)
        name = str(store.get(f"welcome/{world.rank}/{number}"), "ascii")
        store.set(f"thanks/{world.rank}/{name}", "")
        return name
    name = secrets.token_hex(8)
    missing = set(range(1, world.size))
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


def leave(world: World) -> None:
    """End the process group."""
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def all_reduce(tensor: Tensor, world: World) -> Tensor:
    """Sum `tensor` over all ranks in place, in an order that the backend chooses; return it."""
    if world.size > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor, world: World) -> Tensor:
    """[...] -> [size, ...]: every rank's tensor, in rank order, on every rank."""
    if world.size == 1:
        return tensor[None]
    gathered = tensor.new_empty((world.size, *tensor.shape))
    dist.all_gather(list(gathered.unbind()), tensor.contiguous())
    return gathered


def exchange(tensor: Tensor, world: World) -> Tensor:
    """[size, n] -> [size, n]: row r goes to rank r, which receives one row from each rank."""
    if world.size == 1:
        return tensor
    received = torch.empty_like(tensor)
    dist.all_to_all_single(received, tensor.contiguous())
    return received


def broadcast(tensor: Tensor, world: World) -> None:
    """Overwrite `tensor` with that of rank 0."""
    if world.size > 1:
        dist.broadcast(tensor, 0)
