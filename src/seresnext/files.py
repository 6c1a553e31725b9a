"""Files that are written whole or not at all, and JSON that is read within bounds.

Every file of this package that replaces another one is written through `replacing`, every JSON file
that a user can hand in is read through `read_json`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError

MAX_JSON_BYTES = 64 << 20
"""A larger JSON file is refused unread: ImageNet's class names take 40 kB."""


@contextlib.contextmanager
def writing(path: str | Path, advice: str = "") -> Iterator[None]:
    """Turn an OSError inside the block into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror or error}"
        raise UserError(f"{reason}; {advice}" if advice else reason) from error


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it takes the place of `path` at the end.

    If the block raises, the temporary file is removed and `path` stays as it was. With `sync` the
    content and the new name are on the disk itself when the block has ended. Missing folders are
    made. Raises UserError when something cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if sync:
                sync_to_disk(temporary)
            os.replace(temporary, path)
            if sync:
                sync_to_disk(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield a new folder on the file system of `path`, from which files move there by renaming.

    It is removed at the end with what is left in it. Missing folders above are made. An OSError in
    the block becomes a UserError that names `path`.
    """
    folder = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def replace_folder(made: Path, path: Path) -> None:
    """Move the folder `made` to `path`. An earlier folder there ends up beside `made`.

    Both are on one file system. Raises OSError; `path` is then as it was.
    """
    if not path.exists():
        os.replace(made, path)
        return
    earlier = made.with_name(f"{made.name}.earlier")
    os.replace(path, earlier)
    try:
        os.replace(made, path)
    except BaseException:
        os.replace(earlier, path)
        raise


def sync_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_json(value: Any, indent: int | None = None) -> str:
    """Return strict JSON, which has no NaN and no infinity.

    Such a number becomes null, and its object names it under `not_finite`: {"loss": "nan"}.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        odd = {k: str(v) for k, v in value.items() if isinstance(v, float) and not math.isfinite(v)}
        return {k: _finite(v) for k, v in value.items()} | ({"not_finite": odd} if odd else {})
    return value


def write_json(path: Path, value: Any, *, sync: bool = False) -> None:
    """Write `value` as indented JSON, whole or not at all. Raises UserError."""
    with replacing(path, sync=sync) as temporary:
        temporary.write_text(to_json(value, indent=2) + "\n")


def append_json(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON object as a line, in a single write. Raises OSError."""
    with open(path, "ab", buffering=0) as file:
        file.write(to_json(record).encode() + b"\n")


def read_json(path: Path, what: str = "", max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file of at most `max_bytes`; `what` says in an error what the file is.

    Raises UserError for a file that is missing, too large, or not JSON.
    """
    name = f"{what} {path}".lstrip()
    try:
        if path.stat().st_size > max_bytes:
            raise UserError(f"{name} is larger than {max_bytes} bytes; refused")
        return parse_json(path.read_bytes(), name)
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from None


def parse_json(text: str | bytes, name: str) -> Any:
    """Parse JSON; `name` says in the UserError for anything else where it comes from."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not valid JSON: {error}") from None
