"""The lock that keeps a second run out of a run's folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import parse_json

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock-holder"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What `flock` answers on file systems without locks, such as some network mounts."""


class FolderLock:
    """While entered, no other process of this package writes to the folder.

    The lock is the operating system's, which frees it when the process ends in whatever way. On a
    file system without locks it is a file that holds host, process and start time instead; one
    that a dead process of this host has left is replaced, one of another host is believed.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """`say` is told that the file system has no locks."""
        self.folder, self.say = folder, say
        self._handle = -1
        self._holder: Path | None = None

    def __enter__(self) -> FolderLock:
        self._handle = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            if error.errno in _NO_LOCKS:
                self._hold(str(error.strerror))
                return self
            if isinstance(error, BlockingIOError):
                raise UserError(
                    f"another run is using {self.folder}; wait for it, or choose another --out"
                ) from None
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._holder:
            with contextlib.suppress(OSError):
                self._holder.unlink()
        else:
            os.close(self._handle)

    def _hold(self, reason: str) -> None:
        """Make the holder file. Raises UserError if another process holds the folder."""
        path = self.folder / HOLDER_FILE
        own = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        text = json.dumps({**own, "time": time.strftime("%Y-%m-%d %H:%M:%S")})
        if path.exists():
            holder: Any = None  # cut short: its writer died
            with contextlib.suppress(UserError, OSError):
                holder = parse_json(path.read_bytes(), str(path))
            if _is_alive(holder, own["host"]):
                raise UserError(
                    f"another run is using {self.folder}: process {holder.get('pid')} on "
                    f"{holder['host']}, since {holder.get('time')}. If that process has ended, "
                    f"remove {path}; else wait for it, or choose another --out"
                )
            path.unlink(missing_ok=True)
        try:
            with open(path, "x") as file:
                file.write(text)
        except FileExistsError:
            raise UserError(
                f"another run has just taken {self.folder}; choose another --out"
            ) from None
        self._holder = path
        self.say(
            f"warning: the file system of {self.folder} has no locks ({reason}); {path.name} keeps "
            "a second run out"
        )


def _is_alive(holder: Any, host: object) -> bool:
    """Whether the process that a holder file names may still run."""
    try:
        if holder["host"] != host:
            return True
        return bool(_started(holder["pid"]) == holder["started"] != "")
    except (TypeError, KeyError):
        return False


def _started(pid: int) -> str:
    """When a process of this machine started, to tell it from a later one with its number; empty
    if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "unknown"
    except OSError:
        return ""
    return "unknown"
