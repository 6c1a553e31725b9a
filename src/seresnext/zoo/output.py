"""A copy of the output in the files where the original's scripts wrote it (`train.log`, ...)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO


class _Copied:
    """A text stream that also writes to `log`, as long as that can be written."""

    def __init__(self, stream: Any, log: TextIO) -> None:
        self.stream, self.log = stream, log

    def write(self, text: str) -> int:
        try:
            self.log.write(text)
        except OSError:  # a full disk ends the copy, not the run
            self.log = _NOTHING
        return int(self.stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Nothing:
    def write(self, text: str) -> int:
        return len(text)


_NOTHING: Any = _Nothing()


def copy_output(log: Path) -> None:
    """Append what Python prints from now on to `log`, too; earlier runs' lines stay in it."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        print(f"warning: no copy of the output in {log}: {error.strerror}", file=sys.stderr)
        return
    sys.stdout, sys.stderr = _Copied(sys.stdout, file), _Copied(sys.stderr, file)
