"""The lock of a run's folder, with and without locks of the file system."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from seresnext.errors import UserError
from seresnext.training.lock import HOLDER_FILE, FolderLock, _started


def lock(folder: Path, said: list[str] | None = None) -> FolderLock:
    return FolderLock(folder, [].append if said is None else said.append)


def refuse(number: int) -> Callable[..., None]:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def test_one_at_a_time(tmp_path: Path) -> None:
    said: list[str] = []
    with lock(tmp_path, said), pytest.raises(UserError, match="another run is using"):
        lock(tmp_path).__enter__()
    with lock(tmp_path, said):
        assert not said
        assert not (tmp_path / HOLDER_FILE).exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_a_file_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(number))
    said: list[str] = []
    with lock(tmp_path, said):
        assert "has no locks" in said[0]
        holder = json.loads((tmp_path / HOLDER_FILE).read_text())
        assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
        with pytest.raises(UserError, match=f"process {os.getpid()} on .* remove .*{HOLDER_FILE}"):
            lock(tmp_path).__enter__()
    assert not (tmp_path / HOLDER_FILE).exists()


def ended() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


HOLDERS = {
    "another host": ({"host": "elsewhere", "pid": 1, "started": "1", "time": "then"}, True),
    "a dead process": ({"pid": ended(), "started": "1"}, False),
    "a later process with its number": ({"pid": os.getpid(), "started": "1"}, False),
    "a living process": ({"pid": os.getppid(), "started": _started(os.getppid())}, True),
    "nothing that it says": ([], False),
    "nobody, cut short": ('{"host', False),
}


@pytest.mark.parametrize("who", HOLDERS)
def test_who_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    holder, believed = HOLDERS[who]
    own = {"host": socket.gethostname(), "time": "then"}
    text = json.dumps(own | holder) if isinstance(holder, dict) else str(holder)
    (tmp_path / HOLDER_FILE).write_text(text)
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    if believed:
        with pytest.raises(UserError, match="since then"):
            lock(tmp_path).__enter__()
        assert (tmp_path / HOLDER_FILE).read_text() == text
    else:
        with lock(tmp_path):
            assert json.loads((tmp_path / HOLDER_FILE).read_text())["pid"] == os.getpid()


def test_other_errors_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        lock(tmp_path).__enter__()
