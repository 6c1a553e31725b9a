"""MindSpore's process-wide set-up: device, threads, kernels, log level.

It applies to the whole process and is done once; the engine and the MindIR runtime share it.
"""

from __future__ import annotations

import os

os.environ.setdefault("GLOG_v", "3")  # errors only; must be set before MindSpore is imported

import numpy as np

from ...errors import UserError
from ...machine import usable_cores

try:
    import mindspore as ms
    from mindspore.device_context import ascend
    from mindspore.ops import operations as P
except TypeError:  # protobuf's, about generated code in MindSpore 2.7 to 2.9
    raise UserError(
        "MindSpore before 2.10 cannot share a process with protobuf's C implementation "
        "(loaded by ONNX or TensorBoard); set PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python, or "
        "install mindspore 2.10"
    ) from None

_ISA = "ONEDNN_MAX_CPU_ISA"
"""oneDNN 2.2 (MindSpore 2.7) does not know this name; its steps are 12 % faster with AVX-512."""
_threads = 0


def prepare(
    name: str,
    local_rank: int = 0,
    threads: int = 0,
    local_size: int = 1,
    what: str = "engine.device",
) -> str:
    """Set the process's device to `auto`, `cpu`, `ascend` or `ascend:N`; return `CPU` or `Ascend`.

    Without a number a process takes the Ascend device of its local rank; without `threads`,
    `local_size` processes share the CPU's cores evenly. Raises UserError, naming the option `what`,
    for an unknown name, an absent device, or one that differs from the process's present device.
    Ascend: written to MindSpore's documentation, not run on hardware.
    """
    kind, _, index = name.partition(":")
    numbered = kind == "ascend" and index.isdigit()
    if kind not in ("auto", "cpu", "ascend") or (index and not numbered):
        raise UserError(f"{what}: expected auto, cpu, ascend or ascend:N, got {name!r}")
    if kind == "auto":
        kind = "ascend" if ascend.is_available() else "cpu"
    if kind == "ascend" and not ascend.is_available():
        raise UserError(
            f"{what}: {name} was asked for, but MindSpore {ms.__version__} finds no Ascend "
            "device and driver here; use cpu"
        )
    target = "CPU" if kind == "cpu" else "Ascend"
    try:
        if target == "CPU":
            ms.set_device("CPU")
        else:
            ms.set_device("Ascend", int(index) if index else local_rank)
    except RuntimeError as error:
        # After a first computation MindSpore refuses every call, even for the device in use.
        if target != ms.get_context("device_target"):
            first_line = str(error).strip().splitlines()[0]
            raise UserError(
                f"{what}: MindSpore cannot switch to {name} in this process ({first_line}); "
                "it takes one device per process"
            ) from None
    if target == "CPU":
        if not threads and local_size > 1:
            threads = max(usable_cores() // local_size, 1)
        _set_threads(threads)
        _choose_kernels()
    return target


def describe(target: str) -> str:
    """Return a description: "cpu", "cpu (4 threads)", "ascend:0"."""
    if target == "CPU":
        return f"cpu ({_threads} threads)" if _threads else "cpu"
    return f"ascend:{ms.get_context('device_id')}"


def threads_in_use(target: str) -> int:
    """Return the number of compute threads of the process on the CPU, 0 on Ascend."""
    return (_threads or usable_cores()) if target == "CPU" else 0


def _set_threads(threads: int) -> None:
    global _threads
    if threads and threads != _threads:
        if _threads:
            raise UserError(
                f"engine.threads: MindSpore already runs with {_threads} threads and takes one "
                "number per process"
            )
        ms.device_context.cpu.op_tuning.threads_num(threads)
        _threads = threads


def _choose_kernels() -> None:
    """Limit oneDNN, MindSpore's library of CPU kernels, to AVX2 unless the user has set its limit.

    MindSpore passes plain NCHW tensors. For those oneDNN 3.10 has no AVX-512 kernel for grouped,
    strided or three-channel convolutions and falls back to its reference loops: measured on a
    2-core AMD EPYC, a training step of 16 images at 224 px takes 60-73 s, and 7 s with AVX2.
    oneDNN reads the variable at its first kernel, so it is set for that one only: PyTorch and
    OpenVINO in the same process have their own copies of the library, faster with AVX-512.
    """
    if _ISA in os.environ or "DNNL_MAX_CPU_ISA" in os.environ:
        return
    os.environ[_ISA] = "AVX2"
    try:
        one = ms.Tensor(np.ones((1, 1, 1, 1), np.float32))
        P.Conv2D(1, 1)(one, one).asnumpy()
    finally:
        del os.environ[_ISA]
