"""Write the network as ONNX, from canonical weights and without any engine."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..model.spec import InputSpec
from ..runtimes.artifact import CAM_NAME, INPUT_NAME, METADATA_KEY, Artifact
from ..runtimes.normalise import normalisation
from .graph import Conv, Linear, class_activation, walk

OPSET = 17
"""Every operator used is older; CANN and TensorRT lag behind the newest opsets."""
IR_VERSION = 8
"""The oldest that has opset 17."""
GROUP_WIDTH = 16
"""ONNX Runtime's blocked convolution needs 16 channels a group with AVX-512 and 8 with AVX2, and
unrolls the image into columns where there are fewer."""


class _Ops:
    """`graph.Ops` as ONNX nodes; a value is the name of a node's output."""

    def __init__(self, dtype: type) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        value = np.ascontiguousarray(value, self.dtype)
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def conv(self, x: str, name: str, layer: Conv) -> str:
        k = layer.kernel.shape[-1]
        kernel = self.constant(f"{name}.weight", layer.kernel)
        bias = self.constant(f"{name}.bias", layer.bias)
        return self.node(
            "Conv",
            [x, kernel, bias],
            name,
            kernel_shape=[k, k],
            pads=[k // 2] * 4,
            strides=[layer.stride] * 2,
            group=layer.groups,
        )

    def relu(self, x: str, name: str) -> str:
        return self.node("Relu", [x], name)

    def sigmoid(self, x: str, name: str) -> str:
        return self.node("Sigmoid", [x], name)

    def max_pool(self, x: str, name: str, before: int, after: int) -> str:
        pads = [before, before, after, after]
        return self.node("MaxPool", [x], name, kernel_shape=[3, 3], strides=[2, 2], pads=pads)

    def average_pool(self, x: str, name: str) -> str:
        return self.node("AveragePool", [x], name, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)

    def mean(self, x: str, name: str) -> str:
        return self.node("GlobalAveragePool", [x], name)

    def multiply(self, x: str, gate: str, name: str) -> str:
        return self.node("Mul", [x, gate], name)

    def add(self, x: str, y: str, name: str) -> str:
        return self.node("Add", [x, y], name)

    def linear(self, x: str, name: str, layer: Linear) -> str:
        weight = self.constant("fc.weight", layer.weight)
        bias = self.constant("fc.bias", layer.bias)
        x = self.node("Flatten", [x], "features", axis=1)
        return self.node("Gemm", [x, weight, bias], name, transB=1)


def versions() -> str:
    """The format and what writes it, with versions."""
    return f"ONNX opset {OPSET} (IR {IR_VERSION}), onnx {onnx.__version__}"


def build(artifact: Artifact, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """`pixel_values` [batch, 3, S, S], float32 and normalised -> the artifact's outputs, float32.

    With precision fp16 everything between is float16. `write` adds preprocessing and metadata,
    after any quantisation.
    """
    spec, half = artifact.spec, artifact.precision == "fp16"
    ops = _Ops(np.float16 if half else np.float32)
    x = ops.node("Cast", [INPUT_NAME], "half", to=TensorProto.FLOAT16) if half else INPUT_NAME
    _, features = walk(ops, spec, weights, x, GROUP_WIDTH)
    if artifact.with_cam:
        ops.conv(features, CAM_NAME, class_activation(weights))
    if half:
        for node in [node for node in ops.nodes if node.name in artifact.output_shapes]:
            name, node.name = node.name, f"half_{node.name}"
            node.output[0] = node.name
            ops.node("Cast", [node.name], name, to=TensorProto.FLOAT)
    side = spec.input.image_size
    shape_in = ["batch", 3, side, side]
    graph = helper.make_graph(
        ops.nodes,
        spec.architecture.name,
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape_in)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
            for name, shape in artifact.output_shapes.items()
        ],
        ops.constants,
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def write(model: onnx.ModelProto, artifact: Artifact, path: Path) -> None:
    """Write a copy with preprocessing and metadata in it, checked."""
    model = copy.deepcopy(model)
    if artifact.precision == "int8":
        _use_unsigned_activations(model.graph)
        _halve_grouped_weights(model.graph)
    if artifact.with_preprocessing:
        _add_preprocessing(model.graph, artifact.spec.input)
    _set_input(model.graph, artifact)
    model.producer_name, model.producer_version = "seresnext", artifact.version
    helper.set_model_props(model, {METADATA_KEY: artifact.to_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _set_input(graph: onnx.GraphProto, artifact: Artifact) -> None:
    """Name the input, and fix the batch size if there is one."""
    for node in graph.node:
        node.input[:] = [artifact.input_name if n == INPUT_NAME else n for n in node.input]
    graph.input[0].name = artifact.input_name
    if artifact.batch_size:
        for value in (graph.input[0], *graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = artifact.batch_size


def _use_unsigned_activations(graph: onnx.GraphProto) -> None:
    """Turn int8 activations into uint8 ones with the same values.

    NNCF makes activations that can be negative signed and others unsigned; ONNX Runtime has no
    kernel from one to the other and leaves such a convolution in float (half of them here).
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    changed = set()
    for node in graph.node:
        activation = node.input[0] not in constants
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and activation:
            zero = constants[node.input[2]]
            if zero.data_type == TensorProto.INT8 and zero.name not in changed:
                shifted = numpy_helper.to_array(zero).astype(np.int32) + 128
                zero.CopyFrom(numpy_helper.from_array(shifted.astype(np.uint8), zero.name))
                changed.add(zero.name)
    del graph.value_info[:]  # the types there no longer hold; nothing needs them


def _halve_grouped_weights(graph: onnx.GraphProto) -> None:
    """Bring the grouped convolutions' weights from -127..127 to -64..64.

    NNCF's overflow fix (`int8._OVERFLOW_FIX`) does so for all others and omits these.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        kernel, scale = constants[node.input[0]], constants[node.input[1]]
        values = numpy_helper.to_array(kernel).astype(np.float32)
        if np.abs(values).max() > 64:
            smaller = np.rint(values * 64 / 127).astype(np.int8)
            kernel.CopyFrom(numpy_helper.from_array(smaller, kernel.name))
            larger = numpy_helper.to_array(scale) * np.float32(127 / 64)
            scale.CopyFrom(numpy_helper.from_array(larger, scale.name))


def _add_preprocessing(graph: onnx.GraphProto, spec: InputSpec) -> None:
    """Make `pixel_values` uint8 [batch, S, S, 3] and normalise it in the graph."""
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == INPUT_NAME:
                node.input[position] = "normalised"
    ops = _Ops(np.float32)
    x = ops.node("Transpose", [INPUT_NAME], "channels_first", perm=[0, 3, 1, 2])
    x = ops.node("Cast", [x], "pixels", to=TensorProto.FLOAT)
    scale, offset = (v.reshape(1, 3, 1, 1) for v in normalisation(spec))
    x = ops.node("Mul", [x, ops.constant("scale", scale)], "scaled")
    ops.node("Add", [x, ops.constant("offset", offset)], "normalised")
    nodes = [*ops.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(ops.constants)
    shape = ["batch", spec.image_size, spec.image_size, 3]
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape))
