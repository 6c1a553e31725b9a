"""What every runtime offers, and `create_runtime`, which opens any model by its path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..config import EngineConfig, EngineName
from ..engines.base import create_engine
from ..errors import UserError, one_line
from ..frameworks import load_module
from ..model.spec import ModelSpec
from ..weights.trained import load_trained
from .artifact import Artifact
from .formats import Format, recognise


@runtime_checkable
class Runtime(Protocol):
    """A model that is ready to predict. Engines have the same `predict`, `spec` and `close`."""

    name: str
    device: str
    """What it runs on, for people: "cpu (2 threads)"."""
    spec: ModelSpec

    def predict(self, images: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, S, S, 3] -> float32 logits [N, K]; any N, from one thread at a time."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class CamRuntime(Runtime, Protocol):
    """A runtime that gives class activation maps where its `artifact.with_cam`."""

    artifact: Artifact

    def class_activation_maps(self, images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """uint8 [N, S, S, 3], N at least 1 -> logits [N, K], and float32 [N, K, h, w]: the parts of
        each logit at each place of the last feature map."""
        ...


def create_runtime(
    path: str | Path, *, device: str = "auto", engine: EngineName = "torch", threads: int = 0
) -> Runtime:
    """Open the model at `path`, whose format is recognised by its content.

    A run, checkpoint or model folder is opened by `engine`, a file by the runtime of its format.
    `threads` is for the CPU; 0 leaves it to the framework. Only the framework that is needed is
    imported. A file's network is run once before it is returned, so that damage shows here and
    the first prediction is as fast as the others. Raises UserError for a file or folder that is
    missing, damaged, or not written by this package.
    """
    path = Path(path)
    settings = EngineConfig(name=engine, device=device, threads=threads)
    if path.is_dir():
        model = load_trained(path)
        return create_engine(model.spec, model.weights, settings)
    runtime = open_artifact(recognise(path), path, device=device, threads=threads)
    side = runtime.spec.input.image_size
    try:
        runtime.predict(np.zeros((1, side, side, 3), np.uint8))
    except Exception as error:  # whatever a damaged network makes a framework raise
        raise UserError(
            f"{path} is no usable model, it cannot be run: {one_line(error)}"
        ) from error
    return runtime


def open_artifact(
    format: Format, path: Path, *, device: str = "auto", threads: int = 0, trusted: bool = False
) -> Runtime:
    """Open a file by the runtime of `format`, without running it.

    `trusted`: this process has just written the file, so a program in it may be run.
    """
    module, _, name = format.runtime.partition(":")
    runtime_class = getattr(load_module(module, format.extra), name)
    program = {"run_program": True} if trusted and format.holds_program else {}
    runtime: Runtime = runtime_class(path, device=device, threads=threads, **program)
    return runtime


def predict_in_pieces(
    run: Callable[[NDArray[Any]], NDArray[Any]],
    images: NDArray[Any],
    size: int,
    artifact: Artifact,
) -> NDArray[Any]:
    """Logits [N, K] of any number of images, computed by `run` for at most `size` at a time."""
    logits = [np.empty((0, artifact.spec.architecture.num_classes), np.float32)]
    logits += [run(piece)[:count] for piece, count in pieces(images, size, artifact)]
    return np.concatenate(logits)


def pieces(
    images: NDArray[Any], size: int, artifact: Artifact
) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield at most `size` images at a time, and how many of them count.

    For an artifact of a fixed batch size the last piece is filled up with black images.
    """
    size = artifact.batch_size or size
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        missing = size - len(piece) if artifact.batch_size else 0
        padding = np.zeros((missing, *images.shape[1:]), images.dtype)
        yield np.concatenate([piece, padding]) if missing else piece, len(piece)


def describe_cpu_threads(threads: int) -> str:
    """Return "cpu" or "cpu (2 threads)", as engines do; 0 threads means the default number."""
    return f"cpu ({threads} thread{'s' if threads > 1 else ''})" if threads else "cpu"
