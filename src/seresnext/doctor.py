"""What works here, and what to install for the rest."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass

from . import __version__
from .model.architecture import MODEL_NAMES


@dataclass(frozen=True)
class Finding:
    """One row of the report."""

    name: str
    works: bool
    detail: str


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _torch() -> str:
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
    return f"torch {torch.__version__}: {', '.join(devices)}"


def _mindspore() -> str:
    import numpy

    if int(numpy.__version__.split(".")[0]) >= 2:
        raise ImportError(f"numpy {numpy.__version__} is installed, MindSpore needs numpy<2")
    # Importing MindSpore starts thread pools and prints warnings; its version is enough here.
    if importlib.util.find_spec("mindspore") is None:
        raise ImportError("No module named 'mindspore'")
    return f"mindspore {_version('mindspore')}: cpu, ascend where its driver is (not probed)"


def _onnx() -> str:
    import onnxruntime

    providers = ", ".join(
        p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers()
    )
    return f"onnxruntime {onnxruntime.__version__}: {providers}"


def _openvino() -> str:
    import openvino

    return f"openvino {_version('openvino')}: {', '.join(openvino.Core().available_devices)}"


def _int8() -> str:
    if importlib.util.find_spec("nncf") is None:
        raise ImportError("No module named 'nncf'")
    return f"nncf {_version('nncf')}"


_CHECKS = {
    "engine torch": (_torch, "torch"),
    "engine mindspore": (_mindspore, "mindspore"),
    "runtime onnx": (_onnx, "onnx"),
    "runtime openvino": (_openvino, "openvino"),
    "runtime mindir": (_mindspore, "mindspore"),
    "int8 quantisation": (_int8, "openvino"),
}


def diagnose() -> list[Finding]:
    """Try everything optional; nothing here raises."""
    findings = []
    for name, (check, extra) in _CHECKS.items():
        try:
            findings.append(Finding(name, True, check()))
        except Exception as error:  # a broken install can raise anything
            detail = f"{error}; install: pip install 'seresnext[{extra}]'"
            findings.append(Finding(name, False, detail))
    return findings


def report() -> str:
    """The whole report as text."""
    lines = [
        f"seresnext {__version__}, Python {platform.python_version()}, numpy {_version('numpy')}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "",
        *(f"{'ok     ' if f.works else 'missing'}  {f.name:<18} {f.detail}" for f in diagnose()),
        "",
        f"models: {', '.join(MODEL_NAMES)}",
    ]
    return "\n".join(lines)
