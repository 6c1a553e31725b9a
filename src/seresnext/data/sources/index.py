"""The index of archives: where each image lies, its label and its checksum.

It lies beside the archives (`seresnext-index.json` and `.npz`), or in the user's cache where their
folder cannot be written. It is made at the first use and made anew when an archive's name, size or
time changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...files import read_json, replacing, to_json
from ...schema import checked, from_dict
from ..parallel import progress
from .base import Texts
from .folder import report_skipped

FILE = "seresnext-index"
_FORMAT = 1
MAX_CLASSES = 1_000_000

_log = logging.getLogger(__name__)


class Found(NamedTuple):
    """An image in an archive."""

    name: str
    label: int | str
    """Number or name of its class."""
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True)
class Index:
    """All images in some archives, one entry each, in a fixed order."""

    archives: tuple[tuple[str, int, int], ...]
    """(file name, bytes, time of its last change in ns)."""
    class_names: tuple[str, ...]
    """Of the labels; "0", "1", ... where the archives give numbers only."""
    numbered: bool
    """Whether the archives give numbers only."""
    archive: NDArray[np.int32]
    """[N], number of the archive that holds the image."""
    offset: NDArray[np.int64]
    """[N], of its first byte."""
    length: NDArray[np.int64]
    """[N], bytes."""
    label: NDArray[np.int32]
    crc32: NDArray[np.uint32]
    """[N], CRC-32 of its bytes."""
    names: Texts


@checked("index")
class _Header:
    """The part of an index that is JSON."""

    format: int
    archives: tuple[str, ...]
    bytes: tuple[int, ...]
    times: tuple[int, ...]
    class_names: tuple[str, ...]
    numbered: bool
    sha256: str
    """Of the .npz."""


Scan = Callable[[Callable[[int], None], Counter[str]], Iterable[tuple[int, list[Found]]]]
"""Reads archives: yields (number of the archive, images there). It is given what adds to the bytes
that are read, and where to count the members that are passed over."""


State = tuple[str, int, int]
"""File name, bytes, time of the last change in ns."""


def open_index(
    folder: Path,
    archives: Sequence[str],
    scan: Scan,
    state: Callable[[str], State] | None = None,
) -> Index:
    """Return the index of the archives in a folder; `scan` reads them where there is none.

    `state` says what is known of an archive that need not be there. Of several processes one makes
    the index and the others wait. Raises UserError.
    """
    files = [(state or partial(_state, folder))(name) for name in archives]
    place = _place(folder)
    found = _load(place, files)
    if found is None:
        with locked(place, FILE):
            found = _load(place, files)
            if found is None:
                found = _make(folder, files, scan)
                _save(place, found)
    return found


def stored_index(folder: Path) -> Index | None:
    """Return the index in a folder, whatever archives it is of; None where there is none."""
    return _load(folder, None)


def _state(folder: Path, name: str) -> State:
    try:
        found = (folder / name).stat()
    except OSError as error:
        raise UserError(f"cannot read archive {folder / name}: {error.strerror}") from None
    return name, found.st_size, found.st_mtime_ns


def _place(folder: Path) -> Path:
    """Return the folder that holds the index, or will."""
    if (folder / f"{FILE}.json").exists() or os.access(folder, os.W_OK):
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return cache / "seresnext" / key


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Wait until no other process or thread works on what `name` is for in a folder. Without locks
    in the file system, several may. Raises UserError where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f".{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# Making ------------------------------------------------------------------------------------


def _make(folder: Path, files: list[tuple[str, int, int]], scan: Scan) -> Index:
    """Read all archives. Raises UserError for damage, and where they hold no image."""
    labels: dict[int | str, int] = {}
    columns: list[tuple[NDArray[np.int64], list[bytes]]] = []
    skipped: Counter[str] = Counter()
    total = sum(size for _, size, _ in files)
    what = f"indexing {folder} ({total / 1e9:.1f} GB), which is done once"
    with progress(what, total) as advance:
        for number, images in scan(advance, skipped):
            rows = [
                (number, i.offset, i.length, labels.setdefault(i.label, len(labels)), i.crc32)
                for i in images
            ]
            names = [os.fsencode(image.name) for image in images]
            columns.append((np.array(rows, np.int64).reshape(-1, 5), names))
    if not labels:
        raise UserError(f"{folder}: no images in its {len(files)} archives")
    report_skipped(folder, skipped)
    class_names, order = _classes(labels, folder)
    table = np.concatenate([rows for rows, _ in columns])
    return Index(
        tuple(files),
        class_names,
        all(isinstance(label, int) for label in labels),
        table[:, 0].astype(np.int32),
        table[:, 1].copy(),
        table[:, 2].copy(),
        order[table[:, 3]],
        table[:, 4].astype(np.uint32),
        Texts([name for _, names in columns for name in names]),
    )


def _classes(
    labels: dict[int | str, int], folder: Path
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Return the class names, and for each label in order of its discovery its class index."""
    numbers = [label for label in labels if isinstance(label, int)]
    if numbers and len(numbers) < len(labels):
        name = next(label for label in labels if isinstance(label, str))
        raise UserError(
            f"{folder}: some labels are numbers ({numbers[0]}), others names ({name!r}); write all "
            ".cls members in the same way"
        )
    if numbers:
        if not 0 <= min(numbers) <= max(numbers) < MAX_CLASSES:
            raise UserError(f"{folder}: labels from {min(numbers)} to {max(numbers)}; expected "
                            f"class numbers from 0 to {MAX_CLASSES - 1}")  # fmt: skip
        return tuple(map(str, range(max(numbers) + 1))), np.array(numbers, np.int32)
    names = sorted(map(str, labels))
    places = {name: place for place, name in enumerate(names)}
    return tuple(names), np.array([places[str(label)] for label in labels], np.int32)


# On disk -----------------------------------------------------------------------------------


def _save(place: Path, index: Index) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **_arrays(index))
    data = buffer.getvalue()
    header = {
        "format": _FORMAT,
        "archives": [name for name, _, _ in index.archives],
        "bytes": [size for _, size, _ in index.archives],
        "times": [time for _, _, time in index.archives],
        "class_names": list(index.class_names),
        "numbered": index.numbered,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    with replacing(place / f"{FILE}.npz", sync=True) as temporary:
        temporary.write_bytes(data)
    with replacing(place / f"{FILE}.json", sync=True) as temporary:
        temporary.write_text(to_json(header) + "\n")


def _arrays(index: Index) -> dict[str, NDArray[Any]]:
    return {
        "archive": index.archive,
        "offset": index.offset,
        "length": index.length,
        "label": index.label,
        "crc32": index.crc32,
        "names": np.frombuffer(index.names.block, np.uint8),
        "ends": index.names.ends,
    }


_DAMAGE = (
    *(UserError, OSError, ValueError, KeyError, TypeError, EOFError, MemoryError),
    *(OverflowError, zipfile.BadZipFile),
)
"""What reading an index of others may raise."""


def _load(place: Path, files: list[State] | None) -> Index | None:
    """Return the index in a folder; None where there is none that fits the archives, if given."""
    if not (place / f"{FILE}.json").exists():
        return None
    try:
        header = from_dict(_Header, read_json(place / f"{FILE}.json", "index"), "index")
        if header.format != _FORMAT or (files is not None and [*_states(header)] != files):
            raise ValueError("it is of other archives")
        data = (place / f"{FILE}.npz").read_bytes()
        if hashlib.sha256(data).hexdigest() != header.sha256:
            raise ValueError("its two files do not belong together")
        return _checked(header, _read_npz(data))
    except _DAMAGE as error:
        _log.warning("%s.json is not used: %s; the index is made anew", place / FILE, error)
        return None


def _states(header: _Header) -> Iterator[tuple[str, int, int]]:
    return zip(header.archives, header.bytes, header.times, strict=True)


def _read_npz(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays. Raises ValueError for what is no plain .npz; nothing in it is executed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(i.compress_type or i.file_size > len(data) for i in archive.infolist()):
            raise ValueError("it is compressed or states wrong sizes")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def _checked(header: _Header, arrays: dict[str, NDArray[Any]]) -> Index:
    """Return the index. Raises ValueError where an image would lie outside its archive."""
    sizes = np.array(header.bytes, np.int64)
    column = partial(_column, arrays, len(arrays["label"]))
    index = Index(
        tuple(_states(header)),
        header.class_names,
        header.numbered,
        column("archive", np.int32),
        column("offset", np.int64),
        column("length", np.int64),
        column("label", np.int32),
        column("crc32", np.uint32),
        Texts.stored(arrays["names"].tobytes(), column("ends", np.int64)),
    )
    if not (
        len(index.label)
        and _within(index.archive, len(sizes) - 1)
        and _within(index.label, len(header.class_names) - 1)
        and _within(index.offset, limit := sizes[index.archive])
        and _within(index.length, limit - index.offset)
        and _within(np.diff(index.names.ends, prepend=0), len(index.names.block))
        and index.names.ends[-1] == len(index.names.block)
    ):
        raise ValueError("an entry is out of range")
    return index


def _column(
    arrays: dict[str, NDArray[Any]], length: int, name: str, kind: type[np.generic]
) -> NDArray[Any]:
    if arrays[name].dtype != kind or len(arrays[name]) != length:
        raise ValueError(f"expected {length} {kind.__name__} in {name}")
    return arrays[name]


def _within(values: NDArray[Any], limit: NDArray[Any] | int) -> bool:
    """Whether all values are from 0 to `limit`."""
    return bool(((values >= 0) & (values <= limit)).all())
