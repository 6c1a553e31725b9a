"""One process among several: its rank, where its output goes, and how it reports its exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..console import guarded_output
from ..errors import UserError
from ..files import writing
from ..machine import environment_number
from .heartbeat import RankLost

EXIT_CODES = "SERESNEXT_REPORTS"
"""Environment variable: the folder in which a rank started by `supervise` leaves its process id
and, at its end, its exit code."""
_RANK_0_FIRST = 10.0
"""Seconds that another rank waits before it prints its error on the terminal. Mostly all ranks have
the same error; rank 0 prints it at once, and the others are terminated meanwhile."""


def world_size() -> int:
    """Return the number of processes of this run, set by torchrun or msrun; 1 without either.

    Raises UserError where the environment holds no number.
    """
    return environment_number("WORLD_SIZE") or environment_number("MS_WORKER_NUM") or 1


def rank() -> int:
    """Return this process's rank, 0 without torchrun or msrun. Raises UserError as above."""
    if world_size() == 1:
        return 0  # whatever a stray RANK says
    name = "RANK" if environment_number("WORLD_SIZE") else "RANK_ID"
    return environment_number(name) or 0


@contextlib.contextmanager
def rank_output(run: Path) -> Iterator[None]:
    """Redirect stdout and stderr of ranks other than 0 to RUN/logs/rank-N.log for the block.

    File descriptors are redirected, so the output of native libraries goes there too. A UserError
    that rank 0 does not share is printed on the terminal in the end. A terminal or a reader of the
    output that is lost does not end a run.
    """
    if rank() == 0:
        with guarded_output(survives=True):
            yield
        return
    with (rank_logs(run) / f"rank-{rank()}.log").open("ab") as log:
        sys.stdout.flush()
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    print(f"-- rank {rank()}, process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}")
    try:
        yield
    except RankLost:
        raise  # rank 0 prints the reason
    except UserError as error:
        print(f"seresnext: error: {error}", file=sys.stderr, flush=True)
        time.sleep(_RANK_0_FIRST)
        os.dup2(terminal, 2)
        raise UserError(f"rank {rank()}: {error}") from None
    finally:
        os.close(terminal)


def rank_logs(run: Path) -> Path:
    """Return RUN/logs, which is made if it does not exist."""
    logs = run / "logs"
    with writing(f"to {logs}"):
        logs.mkdir(parents=True, exist_ok=True)
    return logs


def report_exit(code: int | None = None) -> None:
    """Tell `supervise`, if it started this process, that it runs, or its exit code."""
    folder = os.environ.get(EXIT_CODES)
    # msrun's scheduler runs the same program and has rank 0 too.
    if folder and os.path.isdir(folder) and os.environ.get("MS_ROLE") != "MS_SCHED":
        text = str(os.getpid()) if code is None else f"{os.getpid()} {code}"
        Path(folder, str(rank())).write_text(text)


def reported_exits(folder: Path) -> dict[int, tuple[int, int | None]]:
    """Return rank -> process id and exit code; None while it runs or when it was killed."""
    found: dict[int, tuple[int, int | None]] = {}
    for file in folder.iterdir():
        if text := file.read_text():  # empty at the moment of being written
            process, *code = map(int, text.split())
            found[int(file.name)] = (process, code[0] if code else None)
    return found
