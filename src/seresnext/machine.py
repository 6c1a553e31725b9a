"""The machine that this process runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from .errors import UserError


def environment_number(name: str) -> int | None:
    """Return the whole number in an environment variable; None where it is empty or not set.

    Raises UserError for anything else.
    """
    text = os.environ.get(name, "").strip()
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(f"the environment variable {name} is {text!r}; expected a whole number")
    return int(text) if text else None


def usable_cores() -> int:
    """Return the number of CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_has_bf16() -> bool:
    """Return whether the CPU has bfloat16 instructions (AVX512_BF16, AMX, Arm BF16).

    Known on Linux only; False elsewhere.
    """
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def describe_cpu() -> str:
    """Return the CPU's model name and its usable cores, such as "AMD EPYC 9R14, 2 cores"."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {usable_cores()} cores"
