"""Struct arrays in MATLAB files of version 5, such as the ImageNet devkit's meta.mat.

Format: "MAT-File Format", MathWorks, chapter 1. Only what such arrays consist of is read: numbers
and texts. Other values are None.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

_MOST = 64 << 20
"""Bytes of a decompressed variable."""
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
"""Type of stored data -> its code in `struct`."""
_TEXTS = {2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR = 2, 4


_DAMAGE = (struct.error, zlib.error, StopIteration, RuntimeError, LookupError, ArithmeticError)
"""What reading a damaged file raises beside ValueError; a generator's StopIteration is a
RuntimeError."""


def read_structs(data: bytes, name: str) -> list[dict[str, Any]]:
    """Return the elements of the struct array `name`, each as field -> number, text or None.

    Raises ValueError for a file that is damaged, too large, or has no such array.
    """
    if len(data) < 128 or data[126:128] != b"IM":
        raise ValueError("expected a little-endian MATLAB file of version 5")
    try:
        for kind, body in _elements(data[128:]):
            if kind == _COMPRESSED:
                unpacker = zlib.decompressobj()
                kind, body = next(_elements(unpacker.decompress(body, _MOST)))
            found, value = _matrix(body) if kind == _MATRIX else ("", None)
            if found == name and isinstance(value, list):
                return value
    except _DAMAGE as error:
        raise ValueError(f"damaged MATLAB file: {error}") from None
    raise ValueError(f"no struct array {name} in it")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of each element. Raises struct.error."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        start = at + 8
        if kind >> 16:  # a small element: size, type and content in 8 bytes
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if size > len(data) - start:
            raise struct.error("an element ends beyond the file")
        yield kind, data[start : start + size]
        at = start + size
        if kind != _COMPRESSED:
            at += -at % 8


def _matrix(data: bytes) -> tuple[str, Any]:
    """Return the name and the value of a matrix."""
    elements = _elements(data)
    flags, dimensions, name = (next(elements)[1] for _ in range(3))
    if flags[0] == _STRUCT:
        value: Any = _structs(elements, math.prod(_numbers(5, dimensions)))
    else:
        kind, stored = next(elements, (0, b""))
        if flags[0] == _CHAR:
            value = stored.decode(_TEXTS[kind]) if kind in _TEXTS else ""
        else:
            numbers = _numbers(kind, stored) if kind in _NUMBERS else ()
            value = numbers[0] if len(numbers) == 1 else None
    return name.decode("latin-1"), value


def _structs(elements: Iterator[tuple[int, bytes]], count: int) -> list[dict[str, Any]]:
    (width,) = _numbers(5, next(elements)[1])
    names = next(elements)[1]
    if width < 1 or not names:
        raise struct.error("a struct without fields")
    fields = [
        names[at : at + width].split(b"\0")[0].decode("latin-1")
        for at in range(0, len(names), width)
    ]
    values = (_matrix(body)[1] for _, body in elements)
    found = []
    for _ in range(count):
        found.append({field: next(values) for field in fields})
    return found


def _numbers(kind: int, data: bytes) -> tuple[Any, ...]:
    code = _NUMBERS[kind]
    return struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data)
