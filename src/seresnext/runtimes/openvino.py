"""Run OpenVINO artifacts."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ..errors import UserError, one_line
from .artifact import (
    CAM_NAME,
    INPUT_NAME,
    METADATA_KEY,
    OUTPUT_NAME,
    Artifact,
    check_operators,
    check_windows,
    read_artifact,
    read_file,
)
from .base import describe_cpu_threads

WEIGHTS_KEY = "weights_sha256"
"""Metadata beside `METADATA_KEY`: the SHA-256 of the .bin that belongs to the .xml."""

_WINDOWS = ("kernel", "strides", "pads_begin", "pads_end", "dilations")
_MAX_XML_BYTES = 64 << 20
_PIECE = 8
"""Images computed together if there are many. At 32 px two to three times as fast as single images,
since the weights are read once; at 224 px equally fast (docs/benchmarks.md)."""

_OPERATORS = frozenset(
    """
    Add AvgPool Const Convert Convolution Divide FakeQuantize GroupConvolution MatMul
    MaxPool Multiply Parameter ReLU ReduceMean Reshape Result Sigmoid Subtract Transpose
    """.split()
)


class OpenVINORuntime:
    """One IR on one device.

    For latency, all threads compute a single image together. For throughput, many images are
    split into pieces of `_PIECE` that are computed side by side, so that no thread waits for
    another; the remainder is computed as single images. The network is compiled for each of the
    two batch sizes, since a free dimension costs time at every layer; for pieces at first use.
    """

    name = "openvino"

    def __init__(self, path: Path, *, device: str = "auto", threads: int = 0) -> None:
        """Raises UserError for a file that is damaged or not ours, and for an absent device."""
        core = ov.Core()
        self._device = _choose(core, device)
        self._model, self.artifact = _read(core, path)
        self.spec = self.artifact.spec
        self._core, self._threads = core, threads
        try:
            self._single = self._compile("LATENCY", 1).create_infer_request()
        except RuntimeError as error:
            raise UserError(f"{path} cannot be run on {self._device}: {one_line(error)}") from None
        self._queue: ov.AsyncInferQueue | None = None
        self._logits = np.empty((0, 0), np.float32)
        self.device = (
            describe_cpu_threads(threads) if self._device == "CPU" else self._device.lower()
        )

    def predict(self, images: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, S, S, 3] -> float32 logits [N, K]; any N."""
        self._logits = np.empty((len(images), self.spec.architecture.num_classes), np.float32)
        whole = len(images) - len(images) % _PIECE
        if whole:
            if self._queue is None:
                self._queue = ov.AsyncInferQueue(self._compile("THROUGHPUT", _PIECE))
                self._queue.set_callback(self._keep)
            for start in range(0, whole, _PIECE):
                # Copied: the array must outlive the request.
                piece = self.artifact.pixel_values(images[start : start + _PIECE])
                self._queue.start_async({INPUT_NAME: piece}, start)
            self._queue.wait_all()
        for row in range(whole, len(images)):
            pixels = self.artifact.pixel_values(images[row : row + 1])
            self._single.infer({INPUT_NAME: pixels}, share_inputs=True)
            self._keep(self._single, row)
        return self._logits

    def class_activation_maps(self, images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """uint8 [N, S, S, 3] -> logits [N, K] and float32 [N, K, h, w]; see `artifact.CAM_NAME`."""
        found: dict[str, list[NDArray[Any]]] = {OUTPUT_NAME: [], CAM_NAME: []}
        for row in range(len(images)):
            self._single.infer({INPUT_NAME: self.artifact.pixel_values(images[row : row + 1])})
            for name, values in found.items():
                values.append(self._single.get_tensor(name).data.copy())
        return np.concatenate(found[OUTPUT_NAME]), np.concatenate(found[CAM_NAME])

    def _keep(self, request: ov.InferRequest, start: int) -> None:
        logits = request.get_tensor(OUTPUT_NAME).data
        self._logits[start : start + len(logits)] = logits

    def _compile(self, hint: str, batch: int) -> ov.CompiledModel:
        model = self._model.clone()
        model.reshape({INPUT_NAME: [batch, *self.artifact.input_shape]})
        settings: dict[str, Any] = {"PERFORMANCE_HINT": hint}
        if self.artifact.precision == "fp32":
            # The default is bfloat16 if the CPU has it: twice as fast, with errors of 3e-3.
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        if self._threads and self._device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = self._threads
        return self._core.compile_model(model, self._device, settings)

    def close(self) -> None:
        del self._single, self._queue


def _choose(core: ov.Core, device: str) -> str:
    """OpenVINO's name of the device. Raises UserError for an absent device."""
    name = "CPU" if device == "auto" else device.upper()
    if name not in core.available_devices:
        found = ", ".join(d.lower() for d in core.available_devices)
        raise UserError(f"--device: OpenVINO sees no {device!r} here; expected auto or {found}")
    return name


def _read(core: ov.Core, path: Path) -> tuple[ov.Model, Artifact]:
    """The network and its metadata, with both files checked. Raises UserError."""
    xml = read_file(path, _MAX_XML_BYTES)
    root = _parse(xml, path)
    info = root.find("rt_info")
    entries = {} if info is None else {e.tag: e.get("value") for e in info}
    artifact = read_artifact(entries.get(METADATA_KEY), path)
    layers = [layer.get("type", "") for layer in root.iter("layer")]
    check_operators(layers, _OPERATORS, artifact, path)
    windows = " ".join(data.get(name, "") for data in root.iter("data") for name in _WINDOWS)
    check_windows(map(int, re.findall(r"\d{1,18}", windows)), path)
    weights = read_file(path.with_suffix(".bin"))
    if hashlib.sha256(weights).hexdigest() != entries.get(WEIGHTS_KEY):
        raise UserError(
            f"{path.with_suffix('.bin')} is damaged or belongs to another export than {path.name}; "
            "expected the two files as they were written together"
        )
    try:
        model = core.read_model(xml, weights)
        shapes = {name: model.output(name).partial_shape for name in artifact.output_shapes}
        shapes[INPUT_NAME] = model.input(INPUT_NAME).partial_shape
    except RuntimeError as error:
        raise UserError(f"{path} is no usable OpenVINO IR: {one_line(error)}") from None
    artifact.check_shapes(path, {name: _per_image(shape) for name, shape in shapes.items()})
    return model, artifact


def _parse(xml: bytes, path: Path) -> ElementTree.Element:
    """The document, which must be UTF-8 for both parsers. Raises UserError."""
    try:
        text = xml.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    declared = re.match(r"<\?xml[^>]*\bencoding\s*=\s*[\"']([^\"'>]*)", text)
    if not text or (declared and declared[1].lower() not in ("utf-8", "us-ascii")):
        raise UserError(f"{path} is not in UTF-8, as every OpenVINO IR is; refused")
    if re.search(r"<!(DOCTYPE|ENTITY)", text):
        raise UserError(f"{path} holds a document type, which no OpenVINO IR does; refused")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is damaged: {error}; export it again") from None


def _per_image(shape: ov.PartialShape) -> tuple[int, ...]:
    """The shape without the batch dimension; -1 for a free dimension."""
    if shape.rank.is_dynamic:
        return ()
    return tuple(-1 if d.is_dynamic else d.get_length() for d in list(shape)[1:])
