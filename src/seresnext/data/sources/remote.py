"""Tar shards at an address (https://, s3://, gs://, ...): fetched whole, kept in a bounded cache.

An address stands for a folder in the user's cache, with a note of what is there, the index, and the
shards that were fetched. A shard appears in it complete or not at all, once for all processes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...files import read_json, replacing, to_json
from ...schema import checked, from_dict
from .folder import SPLITS
from .index import FILE, locked, open_index, stored_index
from .shards import CLASSES, READ, Shards, named, opened, scan, shard_split, splits_among
from .store import Store

NOTE = ".seresnext-remote.json"
CACHE_GB = "SERESNEXT_CACHE_GB"
"""Environment variable: the most that fetched shards may take on the disk, in GB."""
_USUAL_GB = 100.0
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}([^/].*)", re.DOTALL)
"""With one slash, too: `Path` leaves no more of two."""
_OPEN = 8
"""Shards that are open at a time: one removed from the cache keeps its place while it is open."""

_log = logging.getLogger(__name__)


@checked("remote shards")
class Note:
    """What is at an address."""

    url: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]


# Addresses ---------------------------------------------------------------------------------


def is_address(path: str | Path) -> bool:
    """Return whether a path is an address of another store than this machine's files."""
    found = _ADDRESS.fullmatch(str(path))
    return found is not None and found[1] != "file"


def local(path: str | Path) -> Path:
    """Return the path, or the folder that stands for an address. Raises UserError."""
    found = _ADDRESS.fullmatch(str(path))
    if str(path).startswith("file:/"):
        return Path("/", str(path)[len("file:") :].lstrip("/"))
    if not found:
        return Path(path)
    scheme, rest = found.groups()
    host = rest.split("/")[0]
    if "@" in host or ("@" in rest and not re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", host)):
        raise UserError(
            f"the address of the images contains a name or password; leave it out ({scheme}://"
            f"{rest.rpartition('@')[2]}) and give it as {scheme}'s client expects: in the "
            "environment or its configuration file"
        )
    return _stand_in(f"{scheme}://{rest.rstrip('/')}")


def shown(path: Path) -> str:
    """Return a path for messages: the address that a folder stands for."""
    with contextlib.suppress(UserError, OSError):
        if (path / NOTE).is_file():
            return _note(path).url
    return str(path)


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "seresnext", "shards")


def _stand_in(url: str) -> Path:
    """Return the folder for an address, after looking once at what is there. Raises UserError."""
    folder = _cache() / hashlib.sha256(url.encode()).hexdigest()[:16]
    if _known(folder):
        return folder
    with locked(folder, "note"):
        store = Store.of(url)
        if not _known(folder) and not _describe(store, url, folder):
            below = [_describe(store, f"{url}/{split}", folder / split) for split in SPLITS]
            if not any(below):
                raise UserError(
                    f"{url}: no tar shards there; expected a folder with .tar files, or with "
                    f"train/ and val/ of them, that can be listed or has {FILE}.json and .npz"
                )
    return folder


def _known(folder: Path) -> bool:
    return any((place / NOTE).is_file() for place in (folder, *(folder / s for s in SPLITS)))


def _describe(store: Store, url: str, folder: Path) -> bool:
    """Write the note about an address into a folder, with the index and the class names where the
    address has them; return whether there are shards."""
    folder.mkdir(parents=True, exist_ok=True)
    indexed = all(store.small(f"{url}/{FILE}{end}", folder / f"{FILE}{end}") for end in _ENDS)
    if indexed:
        index = stored_index(folder)
        found = {name: size for name, size, _ in index.archives} if index else {}
        if index is None or len(found) < len(index.archives):
            raise UserError(f"{url}/{FILE}.json: no index of these shards; make it anew")
    else:
        found = store.shards(url)
    if not found:
        return False
    if not all(_NAME.fullmatch(name) and size >= 0 for name, size in found.items()):
        raise UserError(f"{url}: its index names files outside its folder, or no .tar files")
    store.small(f"{url}/{CLASSES}", folder / CLASSES)
    note = {"url": url, "names": list(found), "sizes": list(found.values())}
    with replacing(folder / NOTE, sync=True) as temporary:
        temporary.write_text(to_json(note) + "\n")
    return True


_ENDS = (".npz", ".json")
_NAME = re.compile(r"[^./][^/]*\.tar", re.IGNORECASE)


def _note(folder: Path) -> Note:
    return from_dict(Note, read_json(folder / NOTE, "remote shards"), "remote shards")


# The source --------------------------------------------------------------------------------


def is_remote(path: Path) -> bool:
    """Return whether a folder stands for an address of shards."""
    return (path / NOTE).is_file()


def remote_splits(path: Path) -> set[str]:
    """Return the splits in the names of the shards."""
    note = _note(path)
    return splits_among(note.names, note.url)


def remote_shards(
    path: Path,
    *,
    class_names: Sequence[str] | None = None,
    allow_empty_classes: bool = False,
    follow_links: bool = False,
    split: str = "",
) -> Shards:
    """Return the images of the shards that a folder stands for: all, or those of a split.

    As `image_shards`. The shards are fetched when they are read, and from the first read on in the
    background, as far as they fit into the cache. Raises UserError.
    """
    note = _note(path)
    cache = Cache(path, note)
    index = stored_index(path)
    if index is None:
        reads = partial(scan, path, note.names, fetch=cache.fetch)
        index = open_index(path, note.names, reads, cache.state)
    if index.numbered:
        index = named(index, path)
    wanted = np.array([not split or shard_split(name) == split for name, _, _ in index.archives])
    rows = np.flatnonzero(wanted[index.archive])
    cache.names = [name for name, used in zip(note.names, wanted, strict=True) if used]
    return opened(cache, index, rows, class_names, allow_empty_classes)


class Cache:
    """Fetches shards into the folder that stands for their address."""

    open_files = _OPEN

    def __init__(self, folder: Path, note: Note) -> None:
        self.folder, self.url = folder, note.url
        self.sizes = dict(zip(note.names, note.sizes, strict=True))
        self.names = list(note.names)
        """Those that are used."""
        self._ahead: threading.Thread | None = None
        self._starting = threading.Lock()
        self._store = functools.cache(lambda: Store.of(note.url))

    def state(self, name: str) -> tuple[str, int, int]:
        """Return what an index knows of an archive."""
        return name, self.sizes[name], 0

    def fetch(self, name: str) -> Path:
        """Return where a shard lies, fetched where it is not there yet. Raises UserError."""
        target, size = self.folder / name, self.sizes[name]
        if not _there(target, size):
            with locked(self.folder, name):
                if not _there(target, size):
                    if size > most_bytes():
                        raise UserError(
                            f"{self.url}/{name}: {size} bytes, more than the cache may hold; "
                            f"raise {CACHE_GB}, or pack smaller shards (--shard-size)"
                        )
                    make_room(size)
                    self._store().shard(f"{self.url}/{name}", target, size)
        return target

    def open(self, name: str) -> int:
        """`fetch` and open a shard; the others follow in the background, if they fit in."""
        with self._starting:
            if self._ahead is None:
                self._fetch_ahead()
        while True:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile, to make room
                return os.open(self.fetch(name), READ)

    def _fetch_ahead(self) -> None:
        self._ahead = threading.Thread(target=self._fetch_all, daemon=True)
        if sum(self.sizes[n] for n in self.names) <= most_bytes():
            self._ahead.start()
        else:
            _log.warning(
                "%s has more than the %.0f GB that are kept on this disk: its shards will be "
                "fetched again and again; raise %s",
                *(self.url, most_bytes() / 1e9, CACHE_GB),
            )

    def _fetch_all(self) -> None:
        with contextlib.suppress(UserError):  # it is said where the shard is needed
            for name in self.names:
                self.fetch(name)


def _there(path: Path, size: int) -> bool:
    """Return whether a shard is complete, and note that it was used."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except OSError:
        return False
    return True


def most_bytes() -> float:
    """Return how much the cache may hold. Raises UserError."""
    text = os.environ.get(CACHE_GB) or str(_USUAL_GB)
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found < 1e9:
        raise UserError(f"{CACHE_GB}: expected a number of GB above 0, got {text!r}")
    return found * 1e9


def make_room(size: int) -> None:
    """Remove the shards that were not used for longest until `size` more bytes fit."""
    found = []
    for path in _cache().rglob("*.tar"):
        with contextlib.suppress(OSError):
            state = path.stat()
            found.append((state.st_mtime_ns, state.st_size, path))
    total = size + sum(bytes_ for _, bytes_, _ in found)
    for _, bytes_, path in sorted(found):
        if total <= most_bytes():
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= bytes_
