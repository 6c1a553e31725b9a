"""Tensors in files: what a file holds is listed first, and read where it is wanted.

A list costs little, whatever sizes a file claims. Safetensors files are read and written here,
bfloat16 included, which the library cannot turn into NumPy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from .errors import UserError
from .files import parse_json, replacing

DTYPES = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
"""safetensors' name of a type -> NumPy's; bfloat16 as its bits."""
MAX_DIMS = 8
_MAX_HEADER_BYTES = 16 << 20
"""A header takes 100 bytes a tensor, and ImageNet's class names 40 kB."""


@dataclass(frozen=True)
class Stored:
    """One tensor in a file, not yet read."""

    file: Path
    kind: str
    """A name of `DTYPES`, or TEXT: UTF-32."""
    shape: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """Start and end, in bytes, of the pieces of its content."""
    strides: tuple[int, ...] | None = None
    """Distance of neighbours in each dimension, in elements; None: row-major without gaps."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of `read`'s result."""
        return np.dtype({"BF16": "<f4", "TEXT": "U"}.get(self.kind) or DTYPES[self.kind])

    def read(self) -> NDArray[Any]:
        """The array; bfloat16 is widened to float32. Raises UserError if it cannot be read."""
        data = memoryview(bytearray(sum(stop - start for start, stop in self.spans)))
        at = 0
        try:
            with self.file.open("rb") as file:
                for start, stop in self.spans:
                    file.seek(start)
                    at += file.readinto(data[at : at + stop - start])
        except OSError as error:
            raise UserError(f"cannot read {self.file}: {error.strerror}") from None
        if at < len(data):
            raise UserError(f"{self.file} became shorter while it was read")
        if self.kind == "TEXT":
            return np.array(bytes(data).decode("utf-32-le", "replace"))
        flat = np.frombuffer(data, "u1" if self.kind == "BOOL" else DTYPES[self.kind])
        if self.kind == "BOOL":
            flat = np.not_equal(flat, 0)
        elif self.kind == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        if self.strides is None:
            return flat.reshape(self.shape)
        steps = [step * flat.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps).copy()


Entry = NDArray[Any] | Stored


def as_array(entry: Entry) -> NDArray[Any]:
    """The entry itself, or what it reads from its file."""
    return entry.read() if isinstance(entry, Stored) else entry


# safetensors -------------------------------------------------------------------------------


def list_safetensors(path: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    """(name -> tensor, metadata of any kind) of a safetensors file.

    Raises UserError for a file that cannot be read, is damaged, or holds a type that is not read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, _MAX_HEADER_BYTES):
                raise _damaged(path, f"its header claims {length} bytes")
            text = file.read(length)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    header = parse_json(text, f"{path} is not a whole safetensors file: its header")
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no list of tensors")
    metadata = header.pop("__metadata__", None)
    start = 8 + length
    tensors = {name: _stored(path, name, entry, start) for name, entry in header.items()}
    end = start
    for first, last in sorted(tensor.spans[0] for tensor in tensors.values()):
        if first != end:
            raise _damaged(path, "its tensors overlap or leave gaps")
        end = last
    if end != size:
        raise _damaged(path, f"its header describes {end} bytes, the file has {size}")
    return tensors, metadata if isinstance(metadata, dict) else {}


def _stored(path: Path, name: str, entry: Any, start: int) -> Stored:
    """One entry of a header; `start` is where the tensors begin."""
    try:
        kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, first, last)):
            raise ValueError("a number is out of range")
        known = kind in DTYPES
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, f"its entry {name!r} has no type, shape and offsets") from None
    if not known:
        raise UserError(f"{path}: entry {name!r} has type {kind}, which is not read here")
    if len(shape) > MAX_DIMS:
        raise _damaged(path, f"its entry {name!r} has more than {MAX_DIMS} dimensions")
    if math.prod(shape) * np.dtype(DTYPES[kind]).itemsize != last - first:
        raise _damaged(path, f"its entry {name!r} of shape {shape} has {last - first} bytes")
    return Stored(path, kind, tuple(shape), ((start + first, start + last),))


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is not a whole safetensors file: {why}")


def save_safetensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str]
) -> None:
    """Write a safetensors file; it appears whole or not at all. Raises UserError."""
    with replacing(path) as temporary:
        write_safetensors(temporary, tensors, metadata)


def write_safetensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file. Raises OSError.

    `save_file` of safetensors 0.8 reports a full disk by its own exception, and replaces `path` by
    a file that only its owner can read; the file gets the usual permissions here.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    path.touch()
    permissions = path.stat().st_mode
    try:
        save_file(contiguous, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    path.chmod(permissions)
