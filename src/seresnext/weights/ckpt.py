"""Read and write MindSpore's `.ckpt` format without MindSpore.

A checkpoint is a protobuf message (mindspore/train/checkpoint.proto):

    message Checkpoint {
      message Value {
        required string tag = 1;
        oneof value { TensorProto tensor = 2; MapTensorProto maptensor = 3; }
      }
      repeated Value value = 1;
    }
    message TensorProto {
      repeated int64 dims = 1;
      required string tensor_type = 2;
      required bytes tensor_content = 3;
    }

A tensor above 512 MB comes as several neighbouring values with one tag, each with the dims of the
whole. With `crc_check=True` 17 bytes follow: `crc_num` and a CRC-32 as a 10-byte integer.
"""

from __future__ import annotations

import math
import mmap
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import protobuf
from ..errors import UserError
from ..files import replacing
from ..model.architecture import MAX_PARAMETERS
from ..tensors import DTYPES, MAX_DIMS, Stored

MAX_ENTRIES = 100_000
MAX_NAME_BYTES = 1024
SLICE_BYTES = 512 << 20
"""A longer tensor is written in slices, as MindSpore does."""

_CRC_TAG = b"crc_num"
_CRC_BYTES = len(_CRC_TAG) + 10
_MAX_FILE_BYTES = 16 * MAX_PARAMETERS
"""The largest network's weights, momentum, average and accumulators."""
_KINDS = {
    **{"Bool": "BOOL", "Int8": "I8", "UInt8": "U8", "Int16": "I16", "UInt16": "U16"},
    **{"Int32": "I32", "UInt32": "U32", "Int64": "I64", "UInt64": "U64", "Float16": "F16"},
    **{"BFloat16": "BF16", "Float32": "F32", "Float64": "F64", "str": "TEXT"},
}
"""MindSpore's name of a type -> the one of `Stored`."""
_TYPE_NAMES = {
    np.dtype(DTYPES[kind]): name
    for name, kind in _KINDS.items()
    if kind in DTYPES and kind != "BF16"
}
_VARINT, _LENGTH = 0, 2
_Span = tuple[int, int]


class _Damaged(Exception):
    """The bytes are not a checkpoint; the message says why."""


def list_ckpt(path: Path) -> dict[str, Stored]:
    """Name -> tensor or text, in the file's order.

    Every length is compared with the bytes that are there. Raises UserError for anything but a
    whole checkpoint.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            if len(data) > _MAX_FILE_BYTES:
                raise _Damaged(f"it is larger than {_MAX_FILE_BYTES >> 30} GiB")
            return _entries(path, data, _content_end(data))
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror}") from None
    except (_Damaged, ValueError) as error:  # mmap of an empty file raises ValueError
        raise UserError(
            f"{path} is not a whole MindSpore checkpoint: {error}; "
            "it may be truncated, encrypted or of another format"
        ) from None


def _content_end(data: mmap.mmap) -> int:
    """Where the message ends. Raises _Damaged if a CRC follows that does not match."""
    end = len(data) - _CRC_BYTES
    if end < 0 or data[end : end + len(_CRC_TAG)] != _CRC_TAG:
        return len(data)
    crc = 0
    for start in range(0, end, 1 << 20):
        crc = zlib.crc32(data[start : min(start + (1 << 20), end)], crc)
    if crc != int.from_bytes(data[end + len(_CRC_TAG) :], "big"):
        raise _Damaged("its CRC-32 does not match its content")
    return end


class _Header(NamedTuple):
    """One entry without its content; the slices of a tensor have equal ones."""

    tag: str
    kind: str
    dims: list[int]


def _entries(path: Path, data: mmap.mmap, end: int) -> dict[str, Stored]:
    entries: dict[str, Stored] = {}
    pending: _Header | None = None
    slices: list[_Span] = []
    for count, (number, span) in enumerate(_fields(data, (0, end)), 1):
        if number != 1 or not isinstance(span, tuple):
            raise _Damaged(f"unknown field {number} at the top")
        if count > MAX_ENTRIES:
            raise _Damaged(f"it has more than {MAX_ENTRIES} entries")
        header, content = _read_value(data, span)
        if header != pending:
            if pending is not None:
                entries[pending.tag] = _stored(path, pending, slices)
            if header.tag in entries:
                raise _Damaged(f"entry {header.tag!r} comes twice")
            pending, slices = header, []
        slices.append(content)
    if pending is None:
        raise _Damaged("it has no entries")
    entries[pending.tag] = _stored(path, pending, slices)
    return entries


def _read_value(data: mmap.mmap, span: _Span) -> tuple[_Header, _Span]:
    """(header, span of the content) of one `Value`."""
    tag: str | None = None
    tensor: _Span | None = None
    for number, value in _fields(data, span):
        if number == 1 and isinstance(value, tuple):
            tag = _text(data, value)
        elif number == 2 and isinstance(value, tuple):
            tensor = value
        elif number == 3:
            raise _Damaged("it holds a map tensor, which no network of this family has")
        else:
            raise _Damaged(f"unknown field {number} in an entry")
    if tag is None or tensor is None:
        raise _Damaged("an entry has no name or no tensor")
    return _read_tensor(data, tensor, tag)


def _read_tensor(data: mmap.mmap, span: _Span, tag: str) -> tuple[_Header, _Span]:
    """(header, span of the content) of the `TensorProto` of entry `tag`."""
    kind: str | None = None
    content: _Span | None = None
    dims: list[int] = []
    for number, value in _fields(data, span):
        if number == 1:
            dims += [value] if isinstance(value, int) else _packed(data, value)
            if len(dims) > MAX_DIMS:
                raise _Damaged(f"entry {tag!r} has more than {MAX_DIMS} dimensions")
        elif number == 2 and isinstance(value, tuple):
            kind = _text(data, value)
        elif number == 3 and isinstance(value, tuple):
            content = value
        else:
            raise _Damaged(f"unknown field {number} in entry {tag!r}")
    if kind is None or content is None:
        raise _Damaged(f"entry {tag!r} has no type or no content")
    return _Header(tag, kind, dims), content


def _stored(path: Path, header: _Header, slices: list[_Span]) -> Stored:
    """One tensor, after checking that the sizes of its slices agree with its dims."""
    name, kind, dims = header
    size = sum(stop - start for start, stop in slices)
    if kind not in _KINDS:
        raise _Damaged(f"entry {name!r} has the unknown type {kind!r}")
    text = kind == "str"
    # [0] is the shape of a scalar in files of older MindSpore versions, and of a text in all.
    shape = () if text or (dims == [0] and size) else tuple(dims)
    itemsize = 4 if text else np.dtype(DTYPES[_KINDS[kind]]).itemsize
    expected = size - size % 4 if text else math.prod(shape) * itemsize
    if size != expected or (0 in shape and len(shape) > 1):
        raise _Damaged(f"entry {name!r} of shape {shape} and type {kind} holds {size} bytes")
    return Stored(path, _KINDS[kind], shape, tuple(slices))


# The wire ----------------------------------------------------------------------------------


def _fields(data: mmap.mmap, span: _Span) -> Iterator[tuple[int, int | _Span]]:
    """(field number, integer or span of bytes) of one message, within its span."""
    at, end = span
    while at < end:
        key, at = _read_varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _read_varint(data, at, end)
            yield number, value
        elif wire == _LENGTH:
            length, at = _read_varint(data, at, end)
            if length > end - at:
                raise _Damaged(f"a field claims {length} bytes where {end - at} are left")
            yield number, (at, at + length)
            at += length
        else:
            raise _Damaged(f"a field has the unknown wire type {wire}")


def _read_varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= end:
            raise _Damaged("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 63:  # a negative dimension, or more than 64 bits
                break
            return value, at
    raise _Damaged("a number is out of range")


def _packed(data: mmap.mmap, span: _Span) -> list[int]:
    """A packed list of numbers, of at most MAX_DIMS."""
    at, end = span
    values = []
    while at < end:
        value, at = _read_varint(data, at, end)
        values.append(value)
        if len(values) > MAX_DIMS:
            raise _Damaged(f"a tensor has more than {MAX_DIMS} dimensions")
    return values


def _text(data: mmap.mmap, span: _Span) -> str:
    start, stop = span
    if stop - start > MAX_NAME_BYTES:
        raise _Damaged(f"a name is longer than {MAX_NAME_BYTES} bytes")
    try:
        return data[start:stop].decode()
    except UnicodeDecodeError:
        raise _Damaged("a name is not UTF-8") from None


# Writing -----------------------------------------------------------------------------------


def write_ckpt(path: Path, entries: Mapping[str, NDArray[Any]]) -> None:
    """Write a checkpoint that `mindspore.load_checkpoint` reads; it appears whole or not at all.

    Arrays of bool, int, uint and float types. Raises UserError if the file cannot be written.
    """
    with replacing(path, sync=True) as temporary, temporary.open("wb") as file:
        for name, array in entries.items():
            content = np.ascontiguousarray(array).tobytes()
            for start in range(0, max(len(content), 1), SLICE_BYTES):
                part = content[start : start + SLICE_BYTES]
                file.write(_value_header(name, array, len(part)))
                file.write(part)


def _value_header(name: str, array: NDArray[Any], content_bytes: int) -> bytes:
    """The bytes of one entry before its content."""
    dims = b"".join(b"\x08" + protobuf.varint(n) for n in array.shape)
    kind = protobuf.field(2, _TYPE_NAMES[array.dtype.newbyteorder("<")].encode())
    tensor = dims + kind + protobuf.header(3, content_bytes)
    tag = protobuf.field(1, name.encode())
    value = tag + protobuf.header(2, len(tensor) + content_bytes) + tensor
    return protobuf.header(1, len(value) + content_bytes) + value
