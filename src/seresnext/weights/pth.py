"""Read PyTorch's `.pth`, weights only. torch is imported when a file is read.

Nothing in the file is executed: torch's restricted unpickler builds tensors and plain containers
and refuses everything else.
"""

from __future__ import annotations

import argparse
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, listed

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts save the weights; averaged ones first, as in timm."""


def read_pth(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """(name -> array, notes on the key that was read).

    Memory is bounded by a small multiple of the file's size. Raises UserError for a file that
    torch refuses, that expands beyond its own size, or that holds no weights.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"reading {path} needs PyTorch ({error}); install it with: pip install "
            "'seresnext[torch]', or give a .safetensors file"
        ) from None

    size = path.stat().st_size
    try:
        # timm and many scripts save their arguments, a Namespace, beside the weights. torch gets an
        # open file because it would choose its reader by a path's suffix.
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(action="ignore"),  # about an unusual pickle protocol
            path.open("rb") as file,
        ):
            if file.read(4) == b"PK\x03\x04":
                _refuse_compressed(path, size)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        state, notes = _unwrap(content, path)
        return _to_numpy(state, path, size), notes
    except UserError:
        raise
    except Exception as error:  # a hostile file can make the reader raise anything
        # What follows in torch's message advises loading the file the unsafe way.
        reason = str(error).partition("\n")[0].partition(". In PyTorch")[0][:200]
        reason = reason or type(error).__name__
        raise UserError(
            f"{path} is not a weights-only PyTorch file and was not loaded: {reason}; nothing in "
            "it was executed. Expected torch.save(model.state_dict(), ...)"
        ) from None


def _to_numpy(state: dict[Any, Any], path: Path, size: int) -> dict[str, NDArray[Any]]:
    """Copies of the tensors, floating-point ones as float32 (float64 where they are)."""
    import torch

    others = [str(n) for n, t in state.items() if not isinstance(t, torch.Tensor)]
    if others:
        raise UserError(f"{path} holds entries that are no tensors: {listed(others)}")
    arrays: dict[str, NDArray[Any]] = {}
    total = 0
    for name, tensor in state.items():
        # A view may repeat one number any number of times, and views may share one storage.
        total += tensor.numel() * max(tensor.element_size(), 4)
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized or total > 4 * size:
            raise UserError(
                f"{path}: entry {name!r} is sparse, quantized or larger than the file it is in"
            )
        number = tensor.detach()
        if number.is_floating_point() and number.dtype != torch.float64:
            number = number.float()
        arrays[str(name)] = np.array(number.numpy())
    return arrays


def _refuse_compressed(path: Path, size: int) -> None:
    """Refuse a zip bomb: torch stores its tensors uncompressed, so no member exceeds the file."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if sum(m.file_size for m in members) > size or any(m.compress_type for m in members):
        raise UserError(f"{path} is compressed, which PyTorch's own files are not; refused")


def _unwrap(content: Any, path: Path) -> tuple[dict[Any, Any], list[str]]:
    """(the state dict inside a training checkpoint, notes)."""
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict) and content[key]:
            others = sorted(str(k) for k in content if k != key)
            beside = f"; left out what lies beside: {listed(others)}" if others else ""
            return content[key], [f"read the weights under {key!r}{beside}"]
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path} holds {type(content).__name__}, expected a state dict, alone or under one of "
            f"{', '.join(_WRAPPERS)}"
        )
    return content, []
