"""Run torch.export artifacts (.pt2)."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..engines.torch.devices import describe, resolve_device
from ..errors import UserError, one_line
from ..exporters.graph import Conv, Linear, walk
from ..model.architecture import weight_shapes
from .artifact import METADATA_KEY, Artifact, read_artifact
from .base import predict_in_pieces
from .normalise import normalisation

_PIECE = 64
"""Images per call: bounds the memory."""
_WEIGHTS = "data/weights/"
"""Folder of the archive with the weights, and the JSON file that lists them."""


class TorchRuntime:
    """One exported network on one device.

    A `.pt2` file may name any Python function, and `torch.export.load` would call it. So the
    program in a file is not loaded: the metadata and the weights are read, and the network is
    built from them. With `run_program` the program itself runs; only for a file just written.
    """

    name = "torch"

    def __init__(
        self, path: Path, *, device: str = "auto", threads: int = 0, run_program: bool = False
    ) -> None:
        """Raises UserError for a file that is damaged or not ours, and for an absent device."""
        self._device = resolve_device(device, what="--device")
        if threads:
            torch.set_num_threads(threads)
        network, self.artifact = _read(path)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network: Callable[[Tensor], Tensor] = network.to(self._device)
        if run_program:
            with path.open("rb") as file:  # PyTorch takes no name that is not UTF-8
                self._network = torch.export.load(file).module().to(self._device)
        self.spec = self.artifact.spec
        self.device = describe(self._device)

    def predict(self, images: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, S, S, 3] -> float32 logits [N, K]; any N."""
        return predict_in_pieces(self._run, images, _PIECE, self.artifact)

    @torch.inference_mode()
    def _run(self, images: NDArray[Any]) -> NDArray[Any]:
        pixels = torch.tensor(self.artifact.pixel_values(images), device=self._device)
        logits: NDArray[Any] = self._network(pixels).cpu().numpy()
        return logits

    def close(self) -> None:
        del self._network


# Reading -----------------------------------------------------------------------------------


def _read(path: Path) -> tuple[ExportedNetwork, Artifact]:
    """The network that the metadata describes, with the file's weights. Raises UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].split("/")[0]
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise UserError(f"{path} is compressed, which no torch.export archive is; refused")
            text = archive.read(f"{root}/extra/{METADATA_KEY}").decode()
            artifact = read_artifact(text, path)
            shapes = weight_shapes(artifact.spec.architecture).values()
            if sum(math.prod(s) for s in shapes if len(s) > 1) > path.stat().st_size:
                raise ValueError("it is smaller than the network that it describes")
            folder = f"{root}/{_WEIGHTS}"
            entries = json.loads(archive.read(f"{folder}model_weights_config.json"))["config"]
            network = _empty_network(artifact)
            state = {
                name: _tensor(archive, folder, entries[name], expected)
                for name, expected in network.state_dict().items()
            }
            if len(state) != len(entries):
                raise ValueError(f"{len(entries)} weights instead of {len(state)}")
            network.load_state_dict(state)
    except OSError as error:
        raise UserError(f"cannot read model {path}: {error.strerror}") from None
    except (
        zipfile.BadZipFile,
        LookupError,
        TypeError,
        ValueError,
        EOFError,
        RuntimeError,
    ) as error:
        raise UserError(
            f"{path} is damaged or no archive of `seresnext export --format torch` "
            f"({one_line(error, 200)}); export it again"
        ) from None
    return network, artifact


def _empty_network(artifact: Artifact) -> ExportedNetwork:
    shapes = weight_shapes(artifact.spec.architecture)
    return ExportedNetwork(artifact, {k: np.zeros(s, np.float32) for k, s in shapes.items()})


def _tensor(
    archive: zipfile.ZipFile, folder: str, entry: dict[str, Any], expected: Tensor
) -> Tensor:
    """One weight, stored as its plain bytes."""
    if entry["use_pickle"]:
        raise ValueError("pickled weights, which are never read")
    data = archive.read(folder + entry["path_name"])
    if len(data) != expected.nbytes:
        raise ValueError(f"a weight of {len(data)} bytes instead of {expected.nbytes}")
    return torch.frombuffer(bytearray(data), dtype=expected.dtype).reshape(expected.shape)


# The network -------------------------------------------------------------------------------


Step = tuple[tuple[int, ...], Callable[..., Tensor]]
"""Positions of the operands among the values so far, and the function of them."""


class ExportedNetwork(nn.Module):
    """The operations of `graph.walk` in order. Export traces it, the runtime runs it."""

    scale: Tensor
    offset: Tensor

    def __init__(self, artifact: Artifact, weights: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        self.artifact = artifact
        ops = _Ops()
        walk(ops, artifact.spec, weights, 0)
        self.layers, self._steps = nn.ModuleDict(ops.layers), ops.steps
        if artifact.precision == "fp16":
            self.half()
        if artifact.with_preprocessing:
            scale, offset = (torch.tensor(v) for v in normalisation(artifact.spec.input))
            self.register_buffer("scale", scale[:, None, None])
            self.register_buffer("offset", offset[:, None, None])
        self.eval().requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, *artifact.input_shape], uint8 with preprocessing, else float32 -> float32 [B, K]."""
        x = pixel_values
        if self.artifact.with_preprocessing:
            x = x.permute(0, 3, 1, 2).float() * self.scale + self.offset
        if self.artifact.precision == "fp16":
            x = x.half()
        values = [x]
        for operands, run in self._steps:
            values.append(run(*(values[i] for i in operands)))
        return values[-1].float()


class _Ops:
    """`graph.Ops` as steps; a value is its position."""

    def __init__(self) -> None:
        self.layers: dict[str, nn.Module] = {}
        self.steps: list[Step] = []

    def _step(self, run: Callable[..., Tensor], *operands: int) -> int:
        self.steps.append((operands, run))
        return len(self.steps)

    def _layer(
        self, layer: nn.Module, name: str, weight: NDArray[Any], bias: NDArray[Any]
    ) -> nn.Module:
        layer.weight, layer.bias = (nn.Parameter(torch.tensor(v)) for v in (weight, bias))
        self.layers[name.replace(".", "_")] = layer
        return layer

    def conv(self, x: int, name: str, layer: Conv) -> int:
        out, per_group, k, _ = layer.kernel.shape
        channels, groups = per_group * layer.groups, layer.groups
        conv = nn.Conv2d(channels, out, k, layer.stride, k // 2, groups=groups, device="meta")
        return self._step(self._layer(conv, name, layer.kernel, layer.bias), x)

    def relu(self, x: int, name: str) -> int:
        return self._step(F.relu, x)

    def sigmoid(self, x: int, name: str) -> int:
        return self._step(torch.sigmoid, x)

    def max_pool(self, x: int, name: str, before: int, after: int) -> int:
        # `ceil_mode` pads an even side at its end only.
        return self._step(lambda v: F.max_pool2d(v, 3, 2, before, ceil_mode=before < after), x)

    def average_pool(self, x: int, name: str) -> int:
        return self._step(lambda v: F.avg_pool2d(v, 2, 2, ceil_mode=True), x)

    def mean(self, x: int, name: str) -> int:
        return self._step(lambda v: v.mean((2, 3), keepdim=True), x)

    def multiply(self, x: int, gate: int, name: str) -> int:
        return self._step(torch.mul, x, gate)

    def add(self, x: int, y: int, name: str) -> int:
        return self._step(torch.add, x, y)

    def linear(self, x: int, name: str, layer: Linear) -> int:
        classes, features = layer.weight.shape
        fc = nn.Linear(features, classes, device="meta")
        run = self._layer(fc, name, layer.weight, layer.bias)
        return self._step(lambda v: run(v.flatten(1)), x)
