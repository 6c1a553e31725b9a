"""The seam between a shipped artifact and whoever asks it: a runtime only predicts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from ..config import EngineConfig, EngineName
from ..engines.base import create_engine
from ..errors import UserError
from ..model.saved_model import CONFIG_FILE, WEIGHTS_FILE, load_model
from ..model.spec import ModelSpec
from .artifact import Artifact


@runtime_checkable
class Runtime(Protocol):
    """A loaded artifact. Engines have the same `predict`, `spec` and `close`."""

    name: str
    device: str
    spec: ModelSpec

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 logits [N, K]; any N, from one thread at a time."""
        ...

    def close(self) -> None: ...


class Writer(Protocol):
    """The module that writes a format: `runtimes/<format>_export.py`."""

    def versions(self) -> str:
        """Format and library, with their versions."""
        ...

    def build(self, artifact: Artifact, weights: Mapping[str, np.ndarray]) -> Any:
        """The network in the format's own terms, BN folded; input normalised."""
        ...

    def write(self, model: Any, artifact: Artifact, path: Path) -> None:
        """Write it with its metadata, and with preprocessing where asked for."""
        ...


_RUNTIMES = {
    "onnx": ("OnnxRuntime", "onnx"),
    "openvino": ("OpenVINORuntime", "openvino"),
    "mindir": ("MindIRRuntime", "mindspore"),
    "torch": ("TorchRuntime", "torch"),
}


def create_runtime(
    path: str | Path, *, device: str = "auto", engine: EngineName = "torch", threads: int = 0
) -> Runtime:
    """Load whatever lies at `path`, told by its content, ready to predict.

    A run folder or a model folder is loaded by `engine`; a file is an ONNX model, an OpenVINO IR
    (its .xml), a MindIR or a torch.export archive. `threads` is for the CPU; 0 leaves it to the
    framework. Only the framework that is needed is imported. Raises UserError for anything that
    is missing, damaged or not ours. A file's network is run once before it is handed out: damage
    shows then, and the first answer is not slower than the others.
    """
    path = Path(path)
    if path.is_dir():
        spec, weights = load_model(model_folder(path))
        return create_engine(
            spec, weights, EngineConfig(name=engine, device=device, threads=threads)
        )
    kind = artifact_kind(path)
    runtime: Runtime = runtime_class(kind)(path, device=device, threads=threads)
    side = runtime.spec.input.image_size
    try:
        runtime.predict(np.zeros((1, side, side, 3), np.uint8))
    except Exception as error:  # whatever a damaged network makes a framework raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} is no usable model, it cannot be run: {reason}") from error
    return runtime


def runtime_class(kind: str) -> Any:
    """The class that runs `onnx`, `openvino`, `mindir` or `torch` files."""
    return getattr(load(f"runtimes.{kind}"), _RUNTIMES[kind][0])


def writer(kind: str) -> Writer:
    """What writes `onnx`, `openvino` or `torch` files."""
    module: Any = load(f"exporters.{kind}")
    return cast(Writer, module)


def load(module: str) -> ModuleType:
    """A module of the package. Raises UserError naming the extra that its framework comes with."""
    kind = module.rpartition(".")[2]
    try:
        return importlib.import_module(f"seresnext.{module}")
    except ImportError as error:
        extra = _RUNTIMES[kind][1] if kind in _RUNTIMES else "openvino"
        raise UserError(
            f"{module} cannot be loaded ({error}); install what it needs with: "
            f"pip install 'seresnext[{extra}]'"
        ) from error


def model_folder(path: Path) -> Path:
    """The finished model of a run folder, or the model folder itself. Raises UserError."""
    for folder in (path / "model", path):
        if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
            return folder
    raise UserError(
        f"{path} holds no finished model; expected a run folder (with model/), or a folder with "
        f"{WEIGHTS_FILE} and {CONFIG_FILE}"
    )


def artifact_kind(path: Path) -> str:
    """The runtime that a file is for, by its first bytes. Raises UserError for any other file."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"cannot read model {path}: {error.strerror}") from None
    if start.startswith(b"PK\x03\x04"):
        return "torch"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return "openvino"
    # Both are protobuf messages whose first field is the version: a number in ONNX, a text in
    # MindIR.
    if start.startswith(b"\x08"):
        return "onnx"
    if start.startswith(b"\x0a"):
        return "mindir"
    hint = "; the IR is opened by its .xml" if path.suffix == ".bin" else ""
    raise UserError(
        f"{path} is no model that can be run{hint}; expected a run or model folder, or an artifact "
        "written by `seresnext export` (.onnx, .xml, .mindir, .pt2)"
    )


def cpu(threads: int) -> str:
    """The CPU's name for people, as engines give it."""
    count = f" ({threads} thread{'s' if threads > 1 else ''})" if threads else ""
    return f"cpu{count}"


def read_file(path: Path) -> bytes:
    """The whole file. Raises UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read model {path}: {error.strerror}") from None
