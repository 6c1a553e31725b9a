"""The formats of exported models, in one table that export, `create_runtime` and `doctor` read.

To add one: an entry in `FORMATS`, `runtimes/<name>.py` with a class that satisfies `base.Runtime`,
and `exporters/<name>.py` with the functions of `exporters.base.Exporter`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import UserError

ArtifactPrecision = Literal["fp32", "fp16", "int8"]

INT8_PACKAGE, INT8_EXTRA = "nncf", "openvino"
"""What quantises, for every format that has int8, and the extra that installs it."""


@dataclass(frozen=True)
class Format:
    """What the package must know of a format before it imports anything for it."""

    name: str
    """As in `--format`."""
    suffix: str
    """Empty: a folder."""
    precisions: tuple[ArtifactPrecision, ...]
    """The default first. int8 requires that NNCF can quantise what the exporter builds."""
    packages: tuple[str, ...]
    """Packages that the runtime and the exporter import."""
    extra: str
    """The extra of this package that installs them."""
    exporter: str
    """Module that satisfies `exporters.base.Exporter`."""
    runtime: str = ""
    """`module:Class`; the class is called with (path, device=, threads=) and satisfies
    `base.Runtime`. Empty: files of this format cannot be run here."""
    first_bytes: bytes = b""
    """Regular expression for the start of a file; of the formats that match, the first counts."""
    weights_suffix: str = ""
    """Suffix of a second file that holds the weights, if the format has one."""
    preprocessing: bool = True
    """Whether normalisation can be part of the network."""
    fixed_input: bool = False
    """Whether the batch size can be fixed and the input be named, for other people's tools."""
    class_activation: bool = False
    """Whether class activation maps can be an output."""
    holds_program: bool = False
    """The file holds a program that could do anything. The runtime does not run it, unless called
    with `run_program=True`, which export does with the file that it has just written."""
    holds: str = ""
    """The format is a page (`exporters/page.py`) around a file of this other one. The exporter is
    that of the file; the folder itself cannot be run here."""


_ONNX = Format(
    name="onnx",
    suffix=".onnx",
    precisions=("fp32", "fp16", "int8"),
    packages=("onnxruntime", "onnx"),
    extra="onnx",
    exporter="seresnext.exporters.onnx",
    runtime="seresnext.runtimes.onnx:OnnxRuntime",
    first_bytes=rb"\x08",  # protobuf: field 1, a number (the version)
    fixed_input=True,
    class_activation=True,
)
_OPENVINO = Format(
    name="openvino",
    suffix=".xml",
    precisions=("fp32", "fp16", "int8"),
    packages=("openvino",),
    extra="openvino",
    exporter="seresnext.exporters.openvino",
    runtime="seresnext.runtimes.openvino:OpenVINORuntime",
    first_bytes=rb"(\xef\xbb\xbf)?\s*<",  # perhaps a byte order mark
    weights_suffix=".bin",
    class_activation=True,
)
_MINDIR = Format(
    name="mindir",
    suffix=".mindir",
    precisions=("fp32",),
    packages=("mindspore",),
    extra="mindspore",
    exporter="seresnext.exporters.mindir",
    runtime="seresnext.runtimes.mindir:MindIRRuntime",
    first_bytes=rb"\x0a",  # protobuf: field 1, a text (the version)
    preprocessing=False,
    fixed_input=True,
)
_AIR = Format(
    name="air",
    suffix=".air",
    precisions=("fp32",),
    packages=("mindspore",),
    extra="mindspore",
    exporter="seresnext.exporters.air",
    preprocessing=False,
    fixed_input=True,
)
_TORCH = Format(
    name="torch",
    suffix=".pt2",
    precisions=("fp32", "fp16"),
    packages=("torch",),
    extra="torch",
    exporter="seresnext.exporters.torch",
    runtime="seresnext.runtimes.torch:TorchRuntime",
    first_bytes=rb"PK\x03\x04",  # a ZIP archive
    holds_program=True,
)
_WEB = Format(
    name="web",
    suffix="",
    precisions=("fp16", "fp32", "int8"),
    packages=_ONNX.packages,
    extra=_ONNX.extra,
    exporter=_ONNX.exporter,
    holds=_ONNX.name,
)

FORMATS = {f.name: f for f in (_ONNX, _OPENVINO, _MINDIR, _AIR, _TORCH, _WEB)}
"""By name, in the order in which messages list them."""


def recognise(path: Path) -> Format:
    """The format of a file by its first bytes. Raises UserError if it is none that can be run."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"cannot read model {path}: {error.strerror}") from None
    runnable = [f for f in FORMATS.values() if f.runtime]
    for format in runnable:
        if re.match(format.first_bytes, start):
            return format
    whole = next(
        (f for f in runnable if f.weights_suffix and f.weights_suffix == path.suffix), None
    )
    hint = f"; an {whole.name} model is opened by its {whole.suffix}" if whole else ""
    raise UserError(
        f"{path} is no model that can be run{hint}; expected a run or model folder, or an artifact "
        f"written by `seresnext export` ({', '.join(f.suffix for f in runnable)})"
    )
