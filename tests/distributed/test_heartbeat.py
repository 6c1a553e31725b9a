"""Heartbeats between ranks, without a framework: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timing

SCRIPT = """
import os, socket, struct, sys, time
from pathlib import Path
import numpy as np
import seresnext.launch.heartbeat as module
from seresnext.errors import UserError

folder, rank, world, behaviour = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
module._GRACE, module._CAUSE_WAIT = 1.0, 0.5
os.environ["LOCAL_WORLD_SIZE"] = str(world)

def all_sum(values):  # only rank 0 adds anything but zero when the watch begins
    if rank == 0:
        np.save(folder / "part.npy", values)
        os.rename(folder / "part.npy", folder / "sum.npy")
        return values
    while not (folder / "sum.npy").exists():
        time.sleep(0.02)
    total = values + np.load(folder / "sum.npy")
    if behaviour == "strangers":
        for hello in (b"", b"GET / HTTP/1.1\\r\\n", struct.pack("<qq", 1, 7)):
            with socket.create_connection(("127.0.0.1", int(total[0]))) as stranger:
                stranger.sendall(hello)
    return total

try:
    with module.Watch(rank, world, all_sum, silence=2.0):
        (folder / f"in-{rank}").touch()
        if rank == 1:
            if behaviour == "user error":
                raise UserError("no such\\n image")
            if behaviour == "bug":
                raise ValueError("so sorry")
        if behaviour in ("leave", "strangers") or (behaviour == "work" and rank == 1):
            time.sleep(0.2)
        elif behaviour == "work":
            time.sleep(3)  # rank 1 has long left
        elif behaviour == "consequence" and rank == 0:
            while not (folder / "gone").exists():
                time.sleep(0.02)
            raise RuntimeError("connection closed by peer")
        else:
            time.sleep(60)  # as if in a collective
except UserError as error:
    print(type(error).__name__, error)
    sys.exit(1)
"""


def begin(folder: Path, behaviour: str, world: int = 2) -> list[subprocess.Popen[str]]:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(rank), str(world), behaviour],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    deadline = time.monotonic() + 30
    while not all((folder / f"in-{rank}").exists() for rank in range(world)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return ranks


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        out, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, out + errors


@pytest.mark.parametrize("behaviour", ["leave", "work", "strangers"])
def test_ranks_may_leave_one_after_the_other(tmp_path: Path, behaviour: str) -> None:
    assert [end(process) for process in begin(tmp_path, behaviour, world=3)] == [(0, "")] * 3


def test_all_ranks_report_the_first_error(tmp_path: Path) -> None:
    ranks = begin(tmp_path, "user error", world=3)
    reason = r"rank 1: no such\n image"
    # Ranks 0 and 2 hang as in a collective; they are ended and report the reason.
    assert end(ranks[0]) == (1, f"seresnext: error: {reason}\n")
    assert end(ranks[2]) == (1, f"seresnext: error: {reason}\n")
    assert end(ranks[1]) == (1, "RankLost no such\\n image\n")


def test_a_bug_is_named_by_its_type(tmp_path: Path) -> None:
    ranks = begin(tmp_path, "bug")
    assert end(ranks[0]) == (1, "seresnext: error: rank 1: ValueError: so sorry\n")
    assert "Traceback" in end(ranks[1])[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_others_at_once(tmp_path: Path, rank: int) -> None:
    ranks = begin(tmp_path, "hang")
    ranks[rank].kill()
    since = time.monotonic()
    code, text = end(ranks[1 - rank])
    assert code == 1
    assert f"rank {rank} ended without a word" in text
    assert time.monotonic() - since < 3
    end(ranks[rank])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_ends_the_others_in_time(tmp_path: Path, rank: int) -> None:
    ranks = begin(tmp_path, "hang")
    os.kill(ranks[rank].pid, signal.SIGSTOP)
    since = time.monotonic()
    code, text = end(ranks[1 - rank])
    assert code == 1
    assert f"rank {rank} gave no sign of life for 2 s" in text
    assert time.monotonic() - since < 6
    ranks[rank].kill()
    end(ranks[rank])


def test_the_first_failure_is_reported_not_its_consequence(tmp_path: Path) -> None:
    ranks = begin(tmp_path, "consequence")
    ranks[1].kill()
    end(ranks[1])
    (tmp_path / "gone").touch()
    code, text = end(ranks[0])
    assert code == 1
    assert text == "RankLost rank 1 ended without a word (killed, or out of memory)\n"


def test_a_world_of_one_watches_nobody(tmp_path: Path) -> None:
    from seresnext.launch.heartbeat import Watch

    with pytest.raises(ValueError, match="mine"), Watch(0, 1, lambda values: values, 15.0):
        raise ValueError("mine")
