"""Read safetensors files, bfloat16 included, which the library cannot turn into NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from ..errors import UserError
from ..files import parse_json

_DTYPES = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize
"""Untyped in the library."""


def read_safetensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """(name -> array, metadata); bfloat16 is widened to float32.

    Raises UserError for a file that cannot be read, is damaged, or holds a type not listed above.
    """
    try:
        raw = path.read_bytes()
        tensors = _deserialize(raw)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None
    header = parse_json(raw[8 : 8 + int.from_bytes(raw[:8], "little")], str(path))
    arrays = {}
    for name, tensor in tensors:
        kind = tensor["dtype"]
        if kind not in _DTYPES:
            raise UserError(f"{path}: entry {name!r} has type {kind}, which is not read here")
        array = np.frombuffer(tensor["data"], _DTYPES[kind]).reshape(tensor["shape"])
        if kind == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = array
    return arrays, header.get("__metadata__", {})
