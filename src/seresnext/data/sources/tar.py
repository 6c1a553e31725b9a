"""The members of a tar archive, found by reading its headers. Nothing is extracted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ...errors import UserError

Read = Callable[[int, int], bytes]
"""(count, offset) -> that many bytes from there, or fewer where the archive ends."""

BLOCK = 512
_MAX_NAME = 4096
_MAX_EXTENSION = 1 << 20
"""Bytes of a header that extends the next one (long names, times, attributes)."""
_NOT_READ = {b"1": "links", b"2": "links", b"3": "devices", b"4": "devices", b"6": "pipes"}
"""Type of a member without data that is passed over -> what it is called in messages."""


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str
    """Relative to the archive's root, without `./`; bytes that are not UTF-8 as in file names."""
    offset: int
    """Of its first byte in the file that holds the archive."""
    size: int


@contextmanager
def reading(path: Path) -> Iterator[tuple[Read, int]]:
    """Yield what reads a file, from any thread, and its size. Raises UserError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield lambda count, offset: os.pread(handle, count, offset), os.fstat(handle).st_size
        finally:
            os.close(handle)
    except OSError as error:
        raise UserError(f"cannot read archive {path}: {error.strerror}") from None


def members(
    read: Read, start: int, end: int, where: str, skipped: Counter[str]
) -> Iterator[Member]:
    """Yield the regular files of the archive between two offsets, in its order.

    Formats: ustar, GNU and pax, with long names and sizes above 8 GiB. Links, devices, pipes and
    sparse files are counted in `skipped` and passed over. Memory does not grow with the members.

    Raises UserError, beginning with `where`, for a name that is absolute or contains `..`, for a
    member that would end beyond the archive, and for an archive that is damaged or has no end
    mark.
    """
    at = start
    extended: dict[str, str] = {}
    while at + BLOCK <= end:
        header = read(BLOCK, at)
        if len(header) == BLOCK and not any(header):
            return
        kind, name, size = _fields(header, f"{where}, byte {at}")
        size, name = int(extended.get("size", size)), extended.get("path", name)
        at += BLOCK
        if kind in _NOT_READ or kind == b"5":
            if kind in _NOT_READ:
                skipped[_NOT_READ[kind]] += 1
            extended = {}
            continue
        if size > end - at:
            raise UserError(
                f"{where}: {name} of {size} bytes would end beyond the archive, which is cut short "
                "or states wrong sizes; fetch or make it again"
            )
        if kind in (b"x", b"L"):
            if size > _MAX_EXTENSION:
                raise UserError(f"{where}: a header of {size} bytes; {_MAX_EXTENSION} at most")
            block = read(size, at)
            extended |= _pax(block, where) if kind == b"x" else {"path": _text(block)}
        elif kind in (b"g", b"K"):  # defaults for all members, the target of a link
            pass
        else:
            if kind not in (b"0", b"\0", b"7") or "sparse" in extended:
                skipped["special members"] += 1
            elif not name.endswith("/"):  # a folder in the oldest format
                yield Member(_relative(name, where), at, size)
            extended = {}
        at += -(-size // BLOCK) * BLOCK
    raise UserError(f"{where} ends without an end mark; it is cut short: fetch or make it again")


def _fields(header: bytes, where: str) -> tuple[bytes, str, int]:
    """Return type, name and size. Raises UserError where it is no header."""
    try:
        if len(header) < BLOCK:
            raise ValueError
        total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if total != _number(header[148:156]):
            raise ValueError
        size = _number(header[124:136])
    except ValueError:
        raise UserError(f"{where}: expected the header of a tar archive; it is damaged") from None
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = f"{_text(header[345:500])}/{name}"
    return header[156:157], name, size


def _number(field: bytes) -> int:
    """Return a number: octal digits, or, after the byte 0x80, big-endian (GNU)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits.isdigit():
        raise ValueError("no octal number")
    return int(digits, 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax(block: bytes, where: str) -> dict[str, str]:
    """Return path and size of a pax header; `sparse` if the member is one of GNU's sparse files.

    Its records are `LENGTH KEY=VALUE` and a line end (POSIX.1-2017, pax, "Extended Header").
    """
    found: dict[str, str] = {}
    at = 0
    while at < len(block) and block[at]:
        digits = block[at : at + 8].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = block[at + len(digits) + 1 : at + length - 1].partition(b"=")
        if not equals or at + length > len(block):
            raise UserError(f"{where}: a pax header is damaged; fetch or make the archive again")
        if key == b"path":
            found["path"] = _text(value)
        elif key == b"size" and value.isdigit() and len(value) < 20:
            found["size"] = value.decode()
        elif key.startswith(b"GNU.sparse"):
            found["sparse"] = "1"
        at += length
    return found


def _relative(name: str, where: str) -> str:
    """Return the name without `./`. Raises UserError for one that could lead out of a folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or not parts or len(name) > _MAX_NAME:
        raise UserError(
            f"{where}: a member is called {name[:80]!r}; names that are absolute, contain .. or "
            f"have more than {_MAX_NAME} characters are refused: make the archive again with "
            "relative names"
        )
    return "/".join(parts)
