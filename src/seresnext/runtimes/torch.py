"""Run torch.export artifacts (.pt2)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..exporters.graph import normalise
from ..exporters.torch import ExportedNetwork
from ..model.architecture import weight_shapes
from .artifact import METADATA_KEY, Artifact, read_artifact
from .base import cpu

_PIECE = 64
"""Images per call: bounds the memory."""


class TorchRuntime:
    """One exported program on one device.

    `torch.export.load` lets a file name any function of Python to be called, so a program from
    elsewhere is never loaded: its description and its weights are read, and the network is built
    from them anew. `run_program` runs the program itself; only for a file just written.
    """

    name = "torch"

    def __init__(
        self, path: Path, *, device: str = "auto", threads: int = 0, run_program: bool = False
    ) -> None:
        """Raises UserError for a damaged or foreign file and an absent device."""
        self._device = _choose(device)
        if threads:
            torch.set_num_threads(threads)
        network, self.artifact = _read(path)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network: Callable[[Tensor], Tensor] = network.to(self._device)
        if run_program:
            self._network = torch.export.load(path).module().to(self._device)
        self.spec = self.artifact.spec
        self.device = cpu(threads) if self._device.type == "cpu" else str(self._device)

    @torch.inference_mode()
    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] -> float32 logits [N, K]; any N."""
        logits = [np.zeros((0, self.spec.architecture.num_classes), np.float32)]
        for start in range(0, len(images), _PIECE):
            pixels = images[start : start + _PIECE]
            if not self.artifact.with_preprocessing:
                pixels = normalise(pixels, self.spec.input)
            answer = self._network(torch.tensor(pixels, device=self._device))
            logits.append(answer.cpu().numpy())
        return np.concatenate(logits)

    def close(self) -> None:
        del self._network


def _choose(device: str) -> torch.device:
    """Raises UserError for a device that is not there."""
    kind = device.partition(":")[0]
    npu = getattr(torch, "npu", None)
    found = {"cuda": torch.cuda.is_available(), "npu": npu is not None and npu.is_available()}
    if kind == "auto":
        return torch.device(next((k for k, there in found.items() if there), "cpu"))
    if kind != "cpu" and not found.get(kind, False):
        raise UserError(
            f"--device: {device!r} is not there; expected auto, cpu, cuda, cuda:N or npu"
        )
    return torch.device(device)


def _read(path: Path) -> tuple[ExportedNetwork, Artifact]:
    """The network that the file describes, with the file's weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].split("/")[0]
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise UserError(f"{path} is compressed, which no torch.export archive is; refused")
            text = archive.read(f"{root}/extra/{METADATA_KEY}").decode()
            artifact = read_artifact(text, path)
            weights = archive.read(f"{root}/data/weights/model_weights_config.json")
            entries = json.loads(weights)["config"]
            network = _empty_network(artifact)
            state = {
                name: _tensor(archive, f"{root}/data/weights/", entries[name], expected)
                for name, expected in network.state_dict().items()
            }
            if len(state) != len(entries):
                raise ValueError(f"{len(entries)} weights instead of {len(state)}")
            network.load_state_dict(state)
    except OSError as error:
        raise UserError(f"cannot read model {path}: {error.strerror}") from None
    except (zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} is damaged or no archive of `seresnext export --format torch` "
            f"({' '.join(str(error).split())[:200]}); export it again"
        ) from None
    return network, artifact


def _empty_network(artifact: Artifact) -> ExportedNetwork:
    shapes = weight_shapes(artifact.spec.architecture)
    return ExportedNetwork(artifact, {k: np.zeros(s, np.float32) for k, s in shapes.items()})


def _tensor(archive: zipfile.ZipFile, folder: str, entry: dict, expected: Tensor) -> Tensor:
    """One weight, stored as its plain bytes."""
    if entry["use_pickle"]:
        raise ValueError("pickled weights, which are never read")
    data = archive.read(folder + entry["path_name"])
    if len(data) != expected.nbytes:
        raise ValueError(f"a weight of {len(data)} bytes instead of {expected.nbytes}")
    return torch.frombuffer(bytearray(data), dtype=expected.dtype).reshape(expected.shape)
