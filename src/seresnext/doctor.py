"""Which engines, runtimes and devices work on this machine, and what to install for the others."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from . import __version__
from .install import install_command
from .model.architecture import MODEL_NAMES
from .runtimes.formats import FORMATS, INT8_EXTRA, INT8_PACKAGE


@dataclass(frozen=True)
class Finding:
    """One part of the package that is optional."""

    name: str
    works: bool
    detail: str
    """Versions and devices, or what is missing and how to install it."""


def summary() -> str:
    """The machine, what works on it, and the models, as text."""
    lines = [
        f"seresnext {__version__}, Python {platform.python_version()}, numpy {_version('numpy')}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "",
        *(f"{'ok     ' if f.works else 'missing'}  {f.name:<18} {f.detail}" for f in diagnose()),
        "",
        f"models: {', '.join(MODEL_NAMES)}",
    ]
    return "\n".join(lines)


def diagnose() -> list[Finding]:
    """Examine every engine, every format that can be run, and quantisation. Raises nothing."""
    runnable = [f for f in FORMATS.values() if f.runtime]
    return [
        *(_examine(f"engine {name}", [name], name) for name in ("torch", "mindspore")),
        *(_examine(f"runtime {f.name}", f.packages, f.extra) for f in runnable),
        _examine("int8 quantisation", [INT8_PACKAGE], INT8_EXTRA),
    ]


def _examine(name: str, packages: Sequence[str], extra: str) -> Finding:
    try:
        return Finding(name, True, "; ".join(map(_describe, packages)))
    except Exception as error:  # a broken install can raise anything
        return Finding(name, False, f"{error}; install: {install_command(extra)}")


def _describe(package: str) -> str:
    """The package's version, and its devices if there is a way to list them."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"No module named {package!r}")
    devices = {
        "torch": _torch_devices,
        "mindspore": _mindspore_devices,
        "onnxruntime": _onnxruntime_devices,
        "openvino": _openvino_devices,
    }
    text = f"{package} {_version(package)}"
    return f"{text}: {devices[package]()}" if package in devices else text


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _torch_devices() -> str:
    import torch

    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    if torch.cuda.is_available():
        devices += [
            f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        devices.append("mps")
    if hasattr(torch, "npu") and torch.npu.is_available():
        devices.append("npu")
    return ", ".join(devices)


def _mindspore_devices() -> str:
    # Not imported: that starts thread pools and prints warnings.
    if int(_version("numpy").split(".")[0]) >= 2:
        raise ImportError(f"numpy {_version('numpy')} is installed, MindSpore needs numpy<2")
    return "cpu, ascend where its driver is (not probed)"


def _onnxruntime_devices() -> str:
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    return ", ".join(p.removesuffix("ExecutionProvider") for p in providers)


def _openvino_devices() -> str:
    import openvino

    return ", ".join(openvino.Core().available_devices)
