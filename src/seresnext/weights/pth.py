"""PyTorch's `.pth`, weights only: the one place in `model` that imports torch, when called.

Nothing in the file is executed: torch's restricted unpickler builds tensors and plain containers
and refuses the rest.
"""

from __future__ import annotations

import argparse
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts put the weights; averaged ones first, as timm prefers them."""


def read_pth(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """(name -> array, what was done about wrappers).

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
        # timm and many scripts save their arguments beside the weights: a plain record. An open
        # file, for by a path's suffix torch would choose another reader.
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(action="ignore"),  # of an unusual pickle protocol
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
    except Exception as error:  # a hostile file makes the reader raise anything
        # torch goes on to advise loading it the unsafe way.
        reason = str(error).partition("\n")[0].partition(". In PyTorch")[0][:200]
        reason = reason or type(error).__name__
        raise UserError(
            f"{path} is not a weights-only PyTorch file and was not loaded: {reason}; nothing in "
            "it was executed. Expected torch.save(model.state_dict(), ...)"
        ) from None


def _to_numpy(state: dict[Any, Any], path: Path, size: int) -> dict[str, np.ndarray]:
    """Copies of the tensors, floating-point ones as float32 (float64 where they are)."""
    import torch

    strange = [str(n) for n, t in state.items() if not isinstance(t, torch.Tensor)]
    if strange:
        raise UserError(f"{path} holds entries that are no tensors: {', '.join(strange[:8])}")
    arrays: dict[str, np.ndarray] = {}
    total = 0
    for name, tensor in state.items():
        # A view may repeat one number without end, and many views may share one storage.
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
    """torch stores its tensors as they are; a member that is larger than the file is a bomb."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if sum(m.file_size for m in members) > size or any(m.compress_type for m in members):
        raise UserError(f"{path} is compressed, which PyTorch's own files are not; refused")


def _unwrap(content: Any, path: Path) -> tuple[dict[Any, Any], list[str]]:
    """The state dict inside a training checkpoint."""
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict) and content[key]:
            others = sorted(str(k) for k in content if k != key)
            beside = f"; left out what lies beside: {', '.join(others[:12])}" if others else ""
            return content[key], [f"read the weights under {key!r}{beside}"]
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path} holds {type(content).__name__}, expected a state dict, alone or under one of "
            f"{', '.join(_WRAPPERS)}"
        )
    return content, []
