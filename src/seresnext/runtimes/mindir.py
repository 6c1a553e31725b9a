"""Run MindIR artifacts with MindSpore, on the CPU or on Ascend."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from ..engines.mindspore.device import prepare  # first: it quiets MindSpore's import

import mindspore as ms  # isort: skip
from mindspore import Tensor, nn  # isort: skip
from mindspore.train import mind_ir_pb2  # isort: skip

from ..errors import UserError
from ..exporters.graph import normalise
from ..exporters.mindir import DIGEST_KEY, export_air, export_mindir, with_user_info
from .artifact import METADATA_KEY, Artifact, read_artifact, refuse_foreign_operators
from .base import cpu, read_file

__all__ = ["MindIRRuntime", "export_air", "export_mindir"]

_PIECE = 16
"""Images per call: bounds the memory."""

_OPERATORS = {
    **{"Add": 2, "AvgPool": 5, "BiasAdd": 3, "Conv2D": 2, "ExpandDims": 2, "MatMul": 4},
    **{"MaxPool3D": 1, "Mul": 2, "ReLU": 1, "ReduceMean": 3, "Reshape": 2, "Sigmoid": 1},
    **{"Squeeze": 1},
    # How MindIR says that parameters are read, and in which order.
    **{"Constant": 0, "Depend": 2, "Load": 2, "MakeTuple": 0, "UpdateState": 2},
}
"""Operators that exports have, and how many operands they need at least: MindSpore ends the process
where one is missing."""


class MindIRRuntime:
    """One MindIR on one device. Ascend: not run on hardware."""

    name = "mindir"

    def __init__(self, path: Path, *, device: str = "auto", threads: int = 0) -> None:
        """Raises UserError for a damaged or foreign file and an absent device."""
        data, self.artifact = _read(path)
        self.spec = self.artifact.spec
        target = prepare(device, threads=threads, what="--device")
        self.device = cpu(threads) if target == "CPU" else "ascend"
        try:
            self._graph = nn.GraphCell(_load(data))
            # One compilation for any number of images, instead of one for each number.
            self._graph.set_inputs(Tensor(shape=[None, 3, None, None], dtype=ms.float32))
            side = self.spec.input.image_size
            self.predict(np.zeros((1, side, side, 3), np.uint8))  # compiles
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is no usable MindIR for MindSpore {ms.__version__} "
                f"({' '.join(str(error).split())[:200]}); export it again"
            ) from None

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] -> float32 logits [N, K]; any N."""
        logits = [np.zeros((0, self.spec.architecture.num_classes), np.float32)]
        for start in range(0, len(images), _PIECE):
            pixels = normalise(images[start : start + _PIECE], self.spec.input)
            logits.append(self._graph(Tensor(pixels)).asnumpy())
        return np.concatenate(logits)

    def close(self) -> None:
        del self._graph


def _read(path: Path) -> tuple[bytes, Artifact]:
    """The file's bytes and what they say about themselves, once they are known to be whole and
    harmless.

    MindSpore's own parser trusts what it reads, so it gets only what an export wrote: the digest
    finds damage, the list of operators whatever else a file could ask for.
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
    _refuse_foreign_parts(model, path)
    artifact.check_shapes(path, *_shapes(model.graph, artifact))
    return data, artifact


def user_info(model: mind_ir_pb2.ModelProto) -> dict[str, str]:
    """The texts in a file. MindSpore 2.7 reads them as messages, later versions as a map."""
    entries = model.user_info
    return dict(entries) if hasattr(entries, "items") else {e.key: e.value for e in entries}


def _refuse_foreign_parts(model: mind_ir_pb2.ModelProto, path: Path) -> None:
    """Raise UserError for an operator, a function or a weight that no export writes."""
    graph = model.graph
    operators = {f"REF::{p.name}": p.op_type for p in model.primitives}
    found = [operators.get(node.op_type, node.op_type) for node in graph.node]
    everything = [*found, *operators.values(), *(f"function {f.name}" for f in model.functions)]
    refuse_foreign_operators(everything, frozenset(_OPERATORS), path)
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
    """MindSpore's graph of a file with these bytes: those that were checked, and no others."""
    with tempfile.TemporaryDirectory(prefix="seresnext-") as folder:
        file = Path(folder, "model.mindir")  # MindSpore insists on the suffix
        file.write_bytes(data)
        return ms.load(str(file))


def _shapes(graph: mind_ir_pb2.GraphProto, artifact: Artifact) -> Iterator[tuple[int, ...]]:
    """Shapes of the input and the output, without the batch dimension."""
    for value in (graph.input, graph.output):
        dims = tuple(value[0].tensor[0].dims[1:]) if value and value[0].tensor else ()
        # A file made with `dynamic_size` fits every size.
        yield artifact.input_shape if dims == (3, -1, -1) else dims
