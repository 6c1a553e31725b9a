"""Run ONNX artifacts with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ..errors import UserError, one_line
from .artifact import (
    CAM_NAME,
    METADATA_KEY,
    OUTPUT_NAME,
    Artifact,
    check_operators,
    check_windows,
    read_artifact,
    read_file,
)
from .base import describe_cpu_threads, pieces, predict_in_pieces

_PROVIDERS = {
    "npu": "CANNExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Device -> provider, in the order of preference."""

_PIECE = {"cpu": 8, "cuda": 64, "npu": 64}
"""Images per call. On a CPU larger ones gain nothing and leave the cache (docs/benchmarks.md)."""

_OPERATORS = frozenset(
    """
    Add AveragePool Cast Conv DequantizeLinear Flatten Gemm GlobalAveragePool MaxPool Mul
    QuantizeLinear Relu Sigmoid Transpose
    """.split()
)


_WINDOWS = ("kernel_shape", "strides", "pads", "dilations")


class OnnxRuntime:
    """One ONNX model on one device."""

    name = "onnx"

    def __init__(self, path: Path, *, device: str = "auto", threads: int = 0) -> None:
        """Raises UserError for a file that is damaged or not ours, and for an absent device."""
        data, self.artifact = _read(path)
        self.spec = self.artifact.spec
        kind, providers = _choose(device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        # Threads that spin while they wait take cores from decoding, and gain nothing on an idle
        # machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=providers)
        except Exception as error:  # ORT's errors have no common base; all mean a bad model here
            raise UserError(f"{path} is no usable ONNX model: {one_line(error)}") from None
        if self._session.get_providers()[0] != _PROVIDERS[kind]:
            kind = "cpu"
        self.device = describe_cpu_threads(threads) if kind == "cpu" else kind
        self._piece = _PIECE[kind]

    def predict(self, images: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, S, S, 3] -> float32 logits [N, K]; any N."""
        return predict_in_pieces(self._logits, images, self._piece, self.artifact)

    def class_activation_maps(self, images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """uint8 [N, S, S, 3] -> logits [N, K] and float32 [N, K, h, w]; see `artifact.CAM_NAME`."""
        parts = [
            [values[:count] for values in self._run(piece, OUTPUT_NAME, CAM_NAME)]
            for piece, count in pieces(images, self._piece, self.artifact)
        ]
        logits, maps = (np.concatenate(values) for values in zip(*parts, strict=True))
        return logits, maps

    def _logits(self, images: NDArray[Any]) -> NDArray[Any]:
        return self._run(images, OUTPUT_NAME)[0]

    def _run(self, images: NDArray[Any], *outputs: str) -> list[NDArray[Any]]:
        pixels = self.artifact.pixel_values(images)
        try:
            values: list[NDArray[Any]] = self._session.run(
                outputs, {self.artifact.input_name: pixels}
            )
        except Exception as error:  # such as shapes that fit one image only
            raise UserError(
                f"the ONNX model cannot be run on {len(images)} images: {one_line(error)}; export "
                "it again"
            ) from None
        return values

    def close(self) -> None:
        del self._session


def _read(path: Path) -> tuple[bytes, Artifact]:
    """The file's bytes and its metadata, checked. Raises UserError."""
    data = read_file(path)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, UnicodeDecodeError):
        raise UserError(
            f"{path} is damaged: not a whole ONNX model ({len(data)} bytes); export it again"
        ) from None
    entries = {entry.key: entry.value for entry in model.metadata_props}
    artifact = read_artifact(entries.get(METADATA_KEY), path)
    operators = [f"{n.domain}:{n.op_type}".removeprefix(":") for n in model.graph.node]
    operators += [f"function {function.name}" for function in model.functions]
    check_operators(operators, _OPERATORS, artifact, path)
    attributes = [a for node in model.graph.node for a in node.attribute]
    check_windows((n for a in attributes if a.name in _WINDOWS for n in a.ints), path)
    outside = next((t.name for t in _tensors(model.graph) if _is_external(t)), None)
    if outside is not None:
        raise UserError(
            f"{path} keeps its weights in other files (tensor {outside!r}), which is refused: the "
            "file could name any path on this machine; expected one file with everything inside"
        )
    try:
        onnx.checker.check_model(data)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise UserError(f"{path} is no valid ONNX model: {one_line(error)}") from None
    shapes = {v.name: _shape(v) for v in (*model.graph.input, *model.graph.output)}
    artifact.check_shapes(path, shapes)
    return data, artifact


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape without the batch dimension; -1 for a free dimension."""
    dims = value.type.tensor_type.shape.dim[1:]
    return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor, including those of sparse initializers and attributes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _choose(device: str) -> tuple[str, list[Any]]:
    """The device and its providers, best first. Raises UserError for an absent device."""
    available = onnxruntime.get_available_providers()
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = next(k for k, provider in _PROVIDERS.items() if provider in available)
    if kind not in _PROVIDERS or (number and not number.isdigit()):
        raise UserError(f"--device: expected auto, cpu, cuda, cuda:N, npu or npu:N, got {device!r}")
    if _PROVIDERS[kind] not in available:
        raise UserError(
            f"--device {device}: this ONNX Runtime has no {_PROVIDERS[kind]}; use cpu, or install "
            f"{'onnxruntime-gpu' if kind == 'cuda' else 'onnxruntime-cann'}"
        )
    if kind == "cpu":
        return kind, [_PROVIDERS["cpu"]]
    options = {"device_id": int(number or 0)}
    if kind == "cuda":
        options["use_tf32"] = 0  # it keeps 10 bits of the mantissa: fp32 means fp32
    return kind, [(_PROVIDERS[kind], options), _PROVIDERS["cpu"]]
