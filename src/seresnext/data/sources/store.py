"""Files at addresses, through fsspec (extra `remote`): what there is, and copies of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...errors import UserError, one_line
from ...files import sync_to_disk
from ...install import install_command

_MAX_INDEX = 2 << 30
_ATTEMPTS = 4
_PAUSE = 0.5
"""Seconds before the second attempt; doubled each time."""
_SILENCE = 60.0
"""Seconds without a byte after which a connection is given up."""
_HIDDEN = (403, 404, 405, 410)
"""HTTP status of what is not there; of what may not be listed, many servers say 403."""


@dataclass(frozen=True)
class Store:
    """A file system of fsspec."""

    system: Any
    url: str

    @classmethod
    def of(cls, url: str) -> Store:
        options: dict[str, Any] = {}
        try:
            import fsspec

            if url.startswith("http"):
                import aiohttp

                # Its own limit is five minutes for a whole file, however large. The environment
                # holds proxies, and names and passwords (~/.netrc).
                times = aiohttp.ClientTimeout(None, sock_connect=_SILENCE, sock_read=_SILENCE)
                options["client_kwargs"] = {"timeout": times, "trust_env": True}
        except ImportError as error:
            raise UserError(f"{url} needs {error.name}; {install_command('remote')}") from None
        try:
            return cls(fsspec.url_to_fs(url, **options)[0], url)
        except ImportError as error:  # fsspec says which package: "Install s3fs to access S3"
            raise UserError(f"cannot open {url}: {one_line(error)} (pip install NAME)") from None
        except ValueError as error:
            raise UserError(f"cannot open {url}: {one_line(error)}") from None

    def shards(self, url: str) -> dict[str, int]:
        """Return the names and sizes of the archives at an address; none where it has none."""

        def listing() -> dict[str, int]:
            try:
                entries = self.system.ls(url, detail=True)
            except Exception as error:  # of a client of any kind
                if _is_hidden(error):
                    return {}
                raise
            paths = sorted(e["name"] for e in entries if e["name"].lower().endswith(".tar"))
            sizes = {e["name"]: e.get("size") for e in entries}
            return {os.path.basename(path): int(sizes[path] or self._size(path)) for path in paths}

        return _tried(f"list {url}", listing)

    def _size(self, path: str) -> int:
        def ask() -> int:
            try:
                return int(self.system.info(path)["size"])
            except (FileNotFoundError, TypeError):  # so fsspec calls all errors of a web server
                raise OSError("the server does not say its size") from None

        return _tried(f"read {path}", ask)

    def small(self, url: str, target: Path) -> bool:
        """Fetch a file that need not be there; return whether it is."""

        def fetch() -> bool:
            try:
                with _incoming(target) as temporary:
                    self._get(url, temporary, _MAX_INDEX)
            except Exception as error:  # of a client of any kind
                if _is_hidden(error):
                    return False
                raise
            return True

        return _tried(f"read {url}", fetch)

    def shard(self, url: str, target: Path, size: int) -> None:
        """Fetch an archive of a known size. Raises UserError."""

        def fetch() -> None:
            with _incoming(target) as temporary:
                self._get(url, temporary, size)
                found = temporary.stat().st_size
                if found != size:
                    raise OSError(
                        f"got {found} of {size} bytes (if it was replaced, remove {target.parent})"
                    )

        _tried(f"read {url}", fetch)

    def _get(self, url: str, target: Path, most: int) -> None:
        """Fetch a file. Raises UserError soon after `most` bytes, however many are sent."""
        from fsspec.callbacks import Callback

        def bound(size: int | None, value: int, **_: Any) -> None:
            if value > most:
                raise UserError(
                    f"cannot read {url}: more than {most} bytes (if it was replaced, remove "
                    f"{target.parent})"
                )

        self.system.get_file(url, str(target), callback=Callback(hooks={"bound": bound}))


def _is_hidden(error: Exception) -> bool:
    """Return whether an error of a client says that something is not there, or not to be seen."""
    missing = (FileNotFoundError, NotADirectoryError, PermissionError)
    return isinstance(error, missing) or getattr(error, "status", 0) in _HIDDEN


@contextlib.contextmanager
def _incoming(target: Path) -> Iterator[Path]:
    """Yield a temporary path, which takes the place of `target` at the end; what earlier processes
    that were killed left is removed. Not `replacing`: errors here are those of the network."""
    for left in target.parent.glob(f".{target.name}.*.part"):
        left.unlink(missing_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield temporary
        sync_to_disk(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


T = TypeVar("T")


def _tried(what: str, attempt: Callable[[], T]) -> T:
    """Return what `attempt` does, tried a few times. Raises UserError."""
    for number in range(1, _ATTEMPTS + 1):
        try:
            return attempt()
        except UserError:
            raise
        except Exception as error:  # of a client of any kind
            missing = isinstance(error, FileNotFoundError | PermissionError)
            if missing or number == _ATTEMPTS:
                raise UserError(
                    f"cannot {what}: {one_line(error) or type(error).__name__}"
                    + ("" if missing else f"; {number} attempts")
                ) from None
            time.sleep(_PAUSE * 2 ** (number - 1))
    raise AssertionError
