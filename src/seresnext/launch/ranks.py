"""One process among several: its rank, where its output goes, and how it reports its exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..console import guarded_output
from ..errors import UserError
from ..files import writing
from ..machine import environment_number
from ..training.interrupt import INTERRUPTED_EXIT
from .heartbeat import RankLost

EXIT_CODES = "SERESNEXT_REPORTS"
"""Environment variable: the folder in which a rank started by `supervise` leaves its process id
and, at its end, its exit code and the reason of a failure."""
_SCHEDULER = "scheduler"
"""File of msrun's scheduler, which runs the same program and has rank 0 too."""
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


def report_exit(code: int | None = None, reason: str = "") -> None:
    """Tell `supervise`, if it started this process, that it runs, or how it ended and why."""
    folder = os.environ.get(EXIT_CODES)
    if folder and os.path.isdir(folder):
        text = str(os.getpid()) if code is None else f"{os.getpid()} {code} {reason}"
        name = _SCHEDULER if os.environ.get("MS_ROLE") == "MS_SCHED" else str(rank())
        Path(folder, name).write_text(text, errors="replace")


@dataclass(frozen=True)
class Report:
    """What a process has told by `report_exit`."""

    process: int
    code: int | None
    """None while it runs, and when it was killed."""
    reason: str = ""

    def running(self) -> bool:
        """Whether the process still runs; one that only waits to be reaped does not."""
        try:
            os.kill(self.process, 0)
            return (
                Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
            )
        except FileNotFoundError:  # no /proc on this system
            return True
        except ProcessLookupError:
            return False

    def failed(self) -> bool:
        """Whether it ended otherwise than by finishing or by saving itself after a signal."""
        return (
            self.code not in (0, INTERRUPTED_EXIT) if self.code is not None else not self.running()
        )


def reports(folder: Path) -> dict[int, Report]:
    """Return the report of every rank by its number."""
    return {
        int(f.name): found for f in folder.iterdir() if f.name != _SCHEDULER and (found := _read(f))
    }


def scheduler_report(folder: Path) -> Report | None:
    """Return the report of msrun's scheduler, if it was started."""
    return _read(folder / _SCHEDULER) if (folder / _SCHEDULER).exists() else None


def _read(file: Path) -> Report | None:
    """Return None at the moment of being written, when the file is empty."""
    process, _, rest = file.read_text().partition(" ")
    code, _, reason = rest.partition(" ")
    return Report(int(process), int(code) if code else None, reason) if process else None
