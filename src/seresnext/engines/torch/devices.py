"""The device of a rank: its choice, its settings, and copies of arrays to it."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...config import EngineConfig
from ...errors import UserError
from ...machine import usable_cores
from ..common import World

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_CHOICES = "auto, cpu, cuda, cuda:N, npu, npu:N or mps"
_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Setup:
    """Where and how one rank computes."""

    device: torch.device
    world: World
    config: EngineConfig

    @property
    def autocast(self) -> torch.dtype | None:
        """The type of convolutions and matrix products; None is float32."""
        return _AUTOCAST[self.config.precision]


def resolve_device(
    name: str, local_rank: int = 0, local_world: int = 1, what: str = "engine.device"
) -> torch.device:
    """Return the device for `name`; one per local rank where several processes share a machine.

    Raises UserError, naming the option `what`, for an unknown name, an absent device, or an index
    given for several processes (each has its own).
    """
    kind, _, index = name.partition(":")
    if kind == "auto":
        kind = next((k for k in ("cuda", "npu", "mps") if _count(k) > 0), "cpu")
    if kind not in ("cpu", "cuda", "npu", "mps") or (index and not index.isdigit()):
        raise UserError(f"{what}: expected {_CHOICES}, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    count = _count(kind)
    if count == 0:
        raise UserError(f"{what}: {name} was asked for, but {_absence(kind)}; use cpu")
    if local_world > 1 and (index or kind == "mps"):
        raise UserError(
            f"{what}: {name} names one device for {local_world} processes; "
            f"use {kind if kind != 'mps' else 'cpu'}, and each process takes its own"
        )
    number = int(index) if index else (local_rank if local_world > 1 else 0)
    if number >= count:
        raise UserError(
            f"{what}: {kind}:{number} was asked for, but this machine has {count} "
            f"({kind}:0 to {kind}:{count - 1})"
        )
    return torch.device(kind, number)


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count()
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    npu = getattr(torch, "npu", None)  # torch_npu adds it when torch is imported
    return int(npu.device_count()) if npu is not None and npu.is_available() else 0


def _absence(kind: str) -> str:
    if kind == "cuda" and torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA"
    if kind == "npu" and not hasattr(torch, "npu"):
        return "torch_npu is not installed"
    return f"no {kind} device is visible to PyTorch {torch.__version__}"


def describe(device: torch.device) -> str:
    """Return a description such as "cpu (2 threads)" or "cuda:0 NVIDIA H100"."""
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({threads} thread{'s' if threads > 1 else ''})"
    if device.type == "mps":
        return "mps"
    name = getattr(torch, device.type).get_device_name(device)
    return f"{device} {name}"


def prepare(device: torch.device, config: EngineConfig, local_world: int) -> None:
    """Apply the process-wide settings of PyTorch that the configuration implies."""
    threads = config.threads or (1 if config.virtual_shards else 0)
    if not threads and local_world > 1:  # torchrun sets 1, whatever the machine has
        threads = max(usable_cores() // local_world, 1)
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        _keep_freed_memory()
    if device.type in ("cuda", "npu"):
        getattr(torch, device.type).set_device(device)
    if device.type == "cuda":
        # Shapes hardly ever change in training, so measuring the algorithms once pays off.
        torch.backends.cudnn.benchmark = True
        # fp32 means fp32: TensorFloat-32 keeps 10 bits of the mantissa. For speed there is bf16.
        torch.backends.cudnn.allow_tf32 = False


def _keep_freed_memory() -> None:
    """Make glibc keep freed blocks for the next step instead of returning them to the kernel.

    By default it maps every large block anew, and the kernel clears it page by page: at batch 16
    and 224 px that was 670,000 page faults and a fifth of the CPU time of each training step.
    Keeping them costs up to a fifth more memory, in gaps between blocks.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return the array as a CPU tensor that shares its memory where possible."""
    # PyTorch warns about read-only arrays, so those are copied.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


class Upload:
    """Copies arrays to the device; on CUDA in parallel with computation, on its own stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        on_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_cuda else None  # type: ignore[no-untyped-call]

    def __call__(self, arrays: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
        """Return the arrays as tensors of the same type; on the CPU they share memory."""
        tensors = {k: as_tensor(v) for k, v in arrays.items()}
        if self._stream is None:
            return {k: v.to(self.device) for k, v in tensors.items()}
        with torch.cuda.stream(self._stream):
            uploaded = {
                k: v.pin_memory().to(self.device, non_blocking=True) for k, v in tensors.items()
            }
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for tensor in uploaded.values():
            tensor.record_stream(current)  # keeps its memory until this stream is done with it
        return uploaded
