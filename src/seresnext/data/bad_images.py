"""The record of images that could not be read."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

from ..files import append_json


class BadImages:
    """Images that could not be read, each once: here and, with a path, in a file of JSON lines.

    Several threads and processes, or a run and its continuation, may share the file.
    """

    def __init__(self, path: Path | None = None) -> None:
        """With `path`, the images already in that file are included."""
        self._path = path
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}
        self._read = 0
        self._cut = False
        self._read_file()

    @property
    def count(self) -> int:
        """Number of different images."""
        return len(self._names)

    def names(self) -> list[str]:
        """Return where they are (`Source.describe`), in the order in which they were found."""
        with self._lock:
            return list(self._names)

    def add(self, name: str, index: int, reason: str) -> None:
        """Add an image: `{"file": name, "index": index, "reason": reason}`. Raises OSError."""
        with self._lock:
            if name in self._names:
                return
            self._read_file()  # another process may have added it meanwhile
            if name not in self._names and self._path:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                if self._cut:
                    with self._path.open("ab") as file:
                        file.write(b"\n")
                append_json(self._path, {"file": name, "index": index, "reason": reason})
            self._names[name] = None

    def _read_file(self) -> None:
        """Read what was appended to the file since the last call."""
        if not self._path or not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                self._cut = not line.endswith(b"\n")
                with contextlib.suppress(ValueError):  # a line cut short by a crash, or its end
                    self._names[json.loads(line)["file"]] = None
            self._read = file.tell()
