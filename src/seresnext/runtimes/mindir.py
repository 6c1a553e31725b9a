"""Run MindIR artifacts with MindSpore, on the CPU or on Ascend."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ..engines.mindspore.device import describe, prepare  # first: it quiets MindSpore's import

import mindspore as ms  # isort: skip
from mindspore import Tensor, nn  # isort: skip
from mindspore.train import mind_ir_pb2  # isort: skip

from ..errors import UserError, one_line
from ..protobuf import field
from .artifact import (
    METADATA_KEY,
    OUTPUT_NAME,
    Artifact,
    check_operators,
    read_artifact,
    read_file,
)
from .base import predict_in_pieces

DIGEST_KEY = f"{METADATA_KEY}.sha256"
"""Entry with the SHA-256 of the file before this package's entries were appended."""

_PIECE = 16
"""Images per call: bounds the memory."""

_OPERATORS = {
    **{"Add": 2, "AvgPool": 5, "BiasAdd": 3, "Conv2D": 2, "ExpandDims": 2, "MatMul": 4},
    **{"MaxPool3D": 1, "Mul": 2, "ReLU": 1, "Reshape": 2, "Sigmoid": 1},
    **{"Squeeze": 1},
    # Reading of parameters, and its order.
    **{"Constant": 0, "Depend": 2, "Load": 2, "MakeTuple": 0, "UpdateState": 2},
}
"""Operators that exports have, and the fewest operands of each. MindSpore ends the process if an
operand is missing."""


class MindIRRuntime:
    """One MindIR on one device. Ascend: not run on hardware."""

    name = "mindir"

    def __init__(self, path: Path, *, device: str = "auto", threads: int = 0) -> None:
        """Raises UserError for a file that is damaged or not ours, and for an absent device."""
        data, self.artifact = _read(path)
        self.spec = self.artifact.spec
        target = prepare(device, threads=threads, what="--device")
        self.device = describe(target)
        try:
            with _native_messages_hidden():
                self._graph = nn.GraphCell(_load(data))
                # One compilation for any number of images, instead of one for each.
                shape = [self.artifact.batch_size or None, *self.artifact.input_shape]
                self._graph.set_inputs(Tensor(shape=shape, dtype=ms.float32))
                side = self.spec.input.image_size
                self.predict(np.zeros((1, side, side, 3), np.uint8))  # compiles
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is no usable MindIR for MindSpore {ms.__version__} "
                f"({one_line(error, 200)}); export it again"
            ) from None

    def predict(self, images: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, S, S, 3] -> float32 logits [N, K]; any N."""
        return predict_in_pieces(self._run, images, _PIECE, self.artifact)

    def _run(self, images: NDArray[Any]) -> NDArray[Any]:
        logits: NDArray[Any] = self._graph(Tensor(self.artifact.pixel_values(images))).asnumpy()
        return logits

    def close(self) -> None:
        del self._graph


@contextlib.contextmanager
def _native_messages_hidden() -> Iterator[None]:
    """Within the block nothing is written to standard error.

    MindSpore prints up to 450 lines of its own about a graph that it cannot run, and then raises an
    error, from which the user gets one line.
    """
    try:
        terminal = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nothing)


def _read(path: Path) -> tuple[bytes, Artifact]:
    """The file's bytes and its metadata, checked. Raises UserError.

    MindSpore's parser trusts its input, so it must get only what an export writes: the digest
    finds damage, the list of operators everything else that a file could ask for.
    """
    data = read_file(path)
    model = mind_ir_pb2.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError):
        raise UserError(
            f"{path} is damaged: not a whole MindIR ({len(data)} bytes); export it again"
        ) from None
    entries = user_info(model)
    artifact = read_artifact(entries.get(METADATA_KEY), path)
    digest = entries.get(DIGEST_KEY, "")
    ours = with_user_info(b"", entries[METADATA_KEY], digest)
    plain = data.removesuffix(ours)
    if len(plain) == len(data) or hashlib.sha256(plain).hexdigest() != digest:
        raise UserError(f"{path} is not as it was written (its SHA-256 differs); export it again")
    _check_graph(model, artifact, path)
    found = {artifact.input_name: model.graph.input, OUTPUT_NAME: model.graph.output}
    artifact.check_shapes(path, {name: _shape(values) for name, values in found.items()})
    return data, artifact


def with_user_info(data: bytes, metadata: str, digest: str) -> bytes:
    """The file with this package's texts appended; protobuf merges appended fields."""
    return data + _user_info(METADATA_KEY, metadata) + _user_info(DIGEST_KEY, digest)


def _user_info(key: str, value: str) -> bytes:
    """One entry of ModelProto.user_info, a map of texts: field 14 of MindSpore's mind_ir.proto."""
    return field(14, field(1, key.encode()) + field(2, value.encode()))


def user_info(model: mind_ir_pb2.ModelProto) -> dict[str, str]:
    """The texts in a file. MindSpore 2.7 reads them as messages, later versions as a map."""
    entries = model.user_info
    return dict(entries) if hasattr(entries, "items") else {e.key: e.value for e in entries}


def _check_graph(model: mind_ir_pb2.ModelProto, artifact: Artifact, path: Path) -> None:
    """Raise UserError for an operator, a function or a weight that no export writes."""
    graph = model.graph
    operators = {f"REF::{p.name}": p.op_type for p in model.primitives}
    found = [operators.get(node.op_type, node.op_type) for node in graph.node]
    everything = [*found, *operators.values(), *(f"function {f.name}" for f in model.functions)]
    check_operators(everything, frozenset(_OPERATORS), artifact, path)
    known = {value.name for value in (*graph.input, *graph.parameter)}
    for node, operator in zip(graph.node, found, strict=True):
        if len(node.input) < _OPERATORS[operator] or not known.issuperset(node.input):
            raise UserError(
                f"{path} is damaged: {operator} {node.name} lacks operands; export it again"
            )
        known.update(node.output)
    for tensor in graph.parameter:
        if tensor.HasField("external_data"):
            raise UserError(
                f"{path} keeps its weights in other files ({tensor.name}), which is refused: the "
                "file could name any path on this machine; expected one file with everything inside"
            )
        if tensor.data_type != tensor.FLOAT or len(tensor.raw_data) != 4 * math.prod(tensor.dims):
            raise UserError(
                f"{path} is damaged: {tensor.name} has {len(tensor.raw_data)} bytes for a float32 "
                f"tensor of shape {list(tensor.dims)}; export it again"
            )


def _load(data: bytes) -> Any:
    """Load the graph from the bytes that were checked; the file itself could change meanwhile."""
    with tempfile.TemporaryDirectory(prefix="seresnext-") as folder:
        file = Path(folder, "model.mindir")  # MindSpore insists on the suffix
        file.write_bytes(data)
        return ms.load(str(file))


def _shape(values: Any) -> tuple[int, ...]:
    """Shape of the first of a graph's inputs or outputs, without the batch dimension."""
    return tuple(values[0].tensor[0].dims[1:]) if values and values[0].tensor else ()
