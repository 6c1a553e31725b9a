"""Write the network as OpenVINO IR, from canonical weights and without any engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as opset

from ..errors import one_line
from ..model.spec import InputSpec
from ..runtimes.artifact import CAM_NAME, INPUT_NAME, METADATA_KEY, OUTPUT_NAME, Artifact
from ..runtimes.normalise import normalisation
from ..runtimes.openvino import WEIGHTS_KEY
from .graph import Conv, Linear, class_activation, walk

GROUP_WIDTH = 8
"""Fastest of 4, 8, 16 and 32 in fp32 with AVX-512 (docs/benchmarks.md)."""


class _Ops:
    """`graph.Ops` as OpenVINO nodes."""

    def _named(self, node: ov.Node, name: str) -> ov.Node:
        node.set_friendly_name(name)
        return node

    def conv(self, x: ov.Node, name: str, layer: Conv) -> ov.Node:
        pad, steps = [layer.kernel.shape[-1] // 2] * 2, [layer.stride] * 2
        kernel = layer.kernel
        if layer.groups == 1:
            y = opset.convolution(x, kernel, steps, pad, pad, [1, 1])
        else:
            outputs = kernel.shape[0] // layer.groups
            kernel = kernel.reshape(layer.groups, outputs, *kernel.shape[1:])
            y = opset.group_convolution(x, kernel, steps, pad, pad, [1, 1])
        self._named(y, name)
        bias = layer.bias.reshape(1, -1, 1, 1)
        return self._named(opset.add(y, bias), f"{name}.bias")

    def relu(self, x: ov.Node, name: str) -> ov.Node:
        return self._named(opset.relu(x), name)

    def sigmoid(self, x: ov.Node, name: str) -> ov.Node:
        return self._named(opset.sigmoid(x), name)

    def max_pool(self, x: ov.Node, name: str, before: int, after: int) -> ov.Output:
        y = opset.max_pool(x, [2, 2], [1, 1], [before] * 2, [after] * 2, [3, 3])
        return self._named(y, name).output(0)  # the other output holds the indices

    def average_pool(self, x: ov.Node, name: str) -> ov.Node:
        y = opset.avg_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], True, rounding_type="ceil")
        return self._named(y, name)

    def mean(self, x: ov.Node, name: str) -> ov.Node:
        return self._named(opset.reduce_mean(x, np.array([2, 3], np.int64), keep_dims=True), name)

    def multiply(self, x: ov.Node, gate: ov.Node, name: str) -> ov.Node:
        return self._named(opset.multiply(x, gate), name)

    def add(self, x: ov.Node, y: ov.Node, name: str) -> ov.Node:
        return self._named(opset.add(x, y), name)

    def linear(self, x: ov.Node, name: str, layer: Linear) -> ov.Node:
        flat = opset.reshape(x, np.array([0, -1], np.int64), special_zero=True)
        y = self._named(opset.matmul(flat, layer.weight, False, True), "fc")
        return self._named(opset.add(y, layer.bias.reshape(1, -1)), name)


def versions() -> str:
    """The format and what writes it, with versions."""
    return f"OpenVINO opset 13, openvino {ov.__version__.split('-')[0]}"


def build(artifact: Artifact, weights: Mapping[str, NDArray[Any]]) -> ov.Model:
    """`pixel_values` [?, 3, S, S], float32 and normalised -> the artifact's outputs, float32.

    `write` adds preprocessing and metadata, after any quantisation.
    """
    spec = artifact.spec
    side = spec.input.image_size
    x = opset.parameter([-1, 3, side, side], np.float32, INPUT_NAME)
    x.output(0).set_names({INPUT_NAME})
    ops = _Ops()
    logits, features = walk(ops, spec, weights, x, GROUP_WIDTH)
    outputs = {OUTPUT_NAME: logits}
    if artifact.with_cam:
        outputs[CAM_NAME] = ops.conv(features, CAM_NAME, class_activation(weights))
    for name, node in outputs.items():
        node.output(0).set_names({name})
    results = [opset.result(node) for node in outputs.values()]
    return ov.Model(results, [x], spec.architecture.name)


def write(model: ov.Model, artifact: Artifact, path: Path) -> None:
    """Write a copy with preprocessing and metadata in it: `path` (.xml), the .bin beside it."""
    model = model.clone()
    if artifact.with_preprocessing:
        model = _add_preprocessing(model, artifact.spec.input)
    half = artifact.precision == "fp16"
    model.set_rt_info(artifact.to_json(), METADATA_KEY)
    _save(model, path, half)
    digest = hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()
    model.set_rt_info(digest, WEIGHTS_KEY)
    _save(model, path, half)


def _save(model: ov.Model, path: Path, half: bool) -> None:
    """Write both files. Raises OSError."""
    try:
        ov.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # OpenVINO does not tell why
        raise OSError(f"OpenVINO failed; is the disk full? ({one_line(error)})") from None


def _add_preprocessing(model: ov.Model, spec: InputSpec) -> ov.Model:
    """Make `pixel_values` uint8 [?, S, S, 3] and normalise it in the graph."""
    steps = ov.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    scale, offset = normalisation(spec)
    # (x - mean) / scale is OpenVINO's convention.
    mean, divisor = (-offset / scale).tolist(), (1 / scale).tolist()
    steps.input().preprocess().convert_element_type(ov.Type.f32).mean(mean).scale(divisor)
    return steps.build()
