"""Write the network as MindIR, from canonical weights and without any engine."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.mindspore.device import prepare  # first: it quiets MindSpore's import

import mindspore as ms  # isort: skip
from mindspore import Parameter, Tensor, nn  # isort: skip
from mindspore.ops import operations as P  # isort: skip
from mindspore.train import mind_ir_pb2  # isort: skip

from ..runtimes.artifact import Artifact
from ..runtimes.mindir import with_user_info
from .graph import Conv, Linear, walk


def versions() -> str:
    """The format and what writes it, with versions."""
    return f"MindIR, mindspore {ms.__version__}"


def build(artifact: Artifact, weights: Mapping[str, NDArray[Any]]) -> ExportedNetwork:
    """The network as cells."""
    return ExportedNetwork(artifact, weights)


def write(network: ExportedNetwork, artifact: Artifact, path: Path) -> None:
    """Write the network to `path`, with its metadata."""
    prepare("cpu")
    pixels = Tensor(shape=[artifact.batch_size or None, *artifact.input_shape], dtype=ms.float32)
    data = _repeatable(exported(network, pixels, "mindir"), artifact.input_name)
    digest = hashlib.sha256(data).hexdigest()
    path.write_bytes(with_user_info(data, artifact.to_json(), digest))


def exported(network: ExportedNetwork, pixels: Tensor, suffix: str) -> bytes:
    """What MindSpore writes of the network, under a name of which it has no complaints."""
    with tempfile.TemporaryDirectory(prefix="seresnext-") as folder:
        file = Path(folder, f"model.{suffix}")
        ms.export(network, pixels, file_name=str(file), file_format=suffix.upper())
        return file.read_bytes()


def _repeatable(data: bytes, input_name: str) -> bytes:
    """The same graph, its input renamed, in bytes that depend on nothing else.

    MindSpore numbers graphs and nodes by counters of the process, writes primitives and attributes
    in the order of a hash table, and adds the time.
    """
    model = mind_ir_pb2.ModelProto.FromString(data)
    graph = model.graph
    old, graph.name = graph.name, "network"
    names = {node.output[0]: f"network:{i}" for i, node in enumerate(graph.node)}
    names[graph.input[0].name] = input_name

    def renamed(name: str) -> str:
        return names.get(name) or name.replace(f"{old}:", "network:", 1)

    for value in (*graph.input, *graph.output, *graph.parameter):
        value.name = renamed(value.name)
    primitives: dict[str, str] = {}
    for node in graph.node:
        node.name = node.output[0] = renamed(node.name)
        node.input[:] = [renamed(name) for name in node.input]
        kind, _, primitive = node.op_type.partition("::")
        if kind == "REF":
            new = f"{primitive.partition(':')[0]}:{len(primitives)}"
            node.op_type = f"REF::{primitives.setdefault(primitive, new)}"
    for primitive in model.primitives:
        primitive.name = primitives[primitive.name]
        primitive.attribute.sort(key=lambda attribute: attribute.name)
    model.primitives.sort(key=lambda primitive: primitive.name)
    stamps = [a for a in graph.attribute if a.name == "compile_phase"]
    for attribute in stamps:
        graph.attribute.remove(attribute)
    graph.attribute.sort(key=lambda attribute: attribute.name)
    repeatable: bytes = model.SerializeToString(deterministic=True)
    return repeatable


# The network -------------------------------------------------------------------------------


class ExportedNetwork(nn.Cell):
    """The operations of `graph.walk` in order."""

    def __init__(self, artifact: Artifact, weights: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(auto_prefix=False)
        ops = _Ops(artifact.spec.input.image_size)
        walk(ops, artifact.spec, weights, 0)
        self.steps = nn.CellList(ops.steps, auto_prefix=False)
        for name, tensor in ops.parameters.items():
            tensor.name = name  # assigning a parameter to a cell has renamed it
        self.set_train(False)

    def construct(self, pixel_values):  # type: ignore[no-untyped-def]
        """float32 [B, 3, S, S], normalised -> float32 [B, K]."""
        values = (pixel_values,)
        for step in self.steps:
            values = step(values)
        return values[-1]


class _Step(nn.Cell):
    """Appends the result of an operation on one or two of the values so far."""

    def __init__(self, run: Any, operands: tuple[int, ...]) -> None:
        super().__init__(auto_prefix=False)
        self.run = run
        self.first, self.second = operands[0], operands[-1]
        self.unary = len(operands) == 1

    def construct(self, values):  # type: ignore[no-untyped-def]
        if self.unary:
            return (*values, self.run(values[self.first]))
        return (*values, self.run(values[self.first], values[self.second]))


class _Ops:
    """`graph.Ops` as steps; a value is its position."""

    def __init__(self, side: int) -> None:
        self.steps: list[_Step] = []
        self.shapes = [(3, side)]
        """Channels and side of every value."""
        self.parameters: dict[str, Parameter] = {}

    def _step(self, run: Any, *operands: int, shape: tuple[int, int] | None = None) -> int:
        self.steps.append(_Step(run, operands))
        self.shapes.append(shape or self.shapes[operands[0]])
        return len(self.steps)

    def _parameter(self, name: str, value: NDArray[Any]) -> Parameter:
        parameter = Parameter(Tensor(value), name=name, requires_grad=False)
        self.parameters[name] = parameter
        return parameter

    def conv(self, x: int, name: str, layer: Conv) -> int:
        weight = self._parameter(f"{name}.weight", layer.kernel)
        bias = self._parameter(f"{name}.bias", layer.bias)
        shape = (len(layer.bias), -(-self.shapes[x][1] // layer.stride))
        return self._step(_Conv(weight, bias, layer.stride, layer.groups), x, shape=shape)

    def relu(self, x: int, name: str) -> int:
        return self._step(P.ReLU(), x)

    def sigmoid(self, x: int, name: str) -> int:
        return self._step(P.Sigmoid(), x)

    def max_pool(self, x: int, name: str, before: int, after: int) -> int:
        channels, side = self.shapes[x]
        return self._step(_MaxPool(before, after), x, shape=(channels, (side + 1) // 2))

    def average_pool(self, x: int, name: str) -> int:
        # `same` pads an odd side by one at its end and leaves the padding out of the mean.
        channels, side = self.shapes[x]
        return self._step(P.AvgPool(2, 2, "same"), x, shape=(channels, (side + 1) // 2))

    def mean(self, x: int, name: str) -> int:
        channels, side = self.shapes[x]
        return self._step(_Mean(channels, side * side), x, shape=(channels, 1))

    def multiply(self, x: int, gate: int, name: str) -> int:
        return self._step(P.Mul(), x, gate)

    def add(self, x: int, y: int, name: str) -> int:
        return self._step(P.Add(), x, y)

    def linear(self, x: int, name: str, layer: Linear) -> int:
        weight = self._parameter("fc.weight", layer.weight)
        return self._step(_Linear(weight, self._parameter("fc.bias", layer.bias)), x)


class _Conv(nn.Cell):
    def __init__(self, weight: Parameter, bias: Parameter, stride: int, groups: int) -> None:
        super().__init__(auto_prefix=False)
        self.weight, self.bias = weight, bias
        out, _, kernel, _ = weight.shape
        self.conv = P.Conv2D(out, kernel, 1, "pad", kernel // 2, stride, 1, groups)
        self.add = P.BiasAdd()

    def construct(self, x):  # type: ignore[no-untyped-def]
        return self.add(self.conv(x, self.weight), self.bias)


class _MaxPool(nn.Cell):
    def __init__(self, before: int, after: int) -> None:
        super().__init__(auto_prefix=False)
        # The two-dimensional operator cannot pad every side by 1.
        pads = (0, 0, before, after, before, after)
        self.pool = P.MaxPool3D((1, 3, 3), (1, 2, 2), "pad", pads)
        self.expand, self.squeeze = P.ExpandDims(), P.Squeeze(2)

    def construct(self, x):  # type: ignore[no-untyped-def]
        return self.squeeze(self.pool(self.expand(x, 2)))


class _Mean(nn.Cell):
    """[B, C, H, W] -> [B, C, 1, 1] by a matrix product, on the CPU 8 times as fast as a mean."""

    def __init__(self, channels: int, pixels: int) -> None:
        super().__init__(auto_prefix=False)
        self.channels, self.pixels = channels, pixels
        self.share = Tensor(np.full((pixels, 1), 1 / pixels, np.float32))
        self.reshape, self.product = P.Reshape(), P.MatMul()

    def construct(self, x):  # type: ignore[no-untyped-def]
        means = self.product(self.reshape(x, (-1, self.pixels)), self.share)
        return self.reshape(means, (-1, self.channels, 1, 1))


class _Linear(nn.Cell):
    """[B, C, 1, 1] -> [B, K]."""

    def __init__(self, weight: Parameter, bias: Parameter) -> None:
        super().__init__(auto_prefix=False)
        self.weight, self.bias, self.features = weight, bias, weight.shape[1]
        self.reshape, self.product, self.add = P.Reshape(), P.MatMul(transpose_b=True), P.BiasAdd()

    def construct(self, x):  # type: ignore[no-untyped-def]
        return self.add(self.product(self.reshape(x, (-1, self.features)), self.weight), self.bias)
