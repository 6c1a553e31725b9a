"""Several processes on this machine: `seresnext train --nproc N`, and what each of them says.

PyTorch's processes are started by torchrun, MindSpore's by msrun. Both are made for clusters:
they print pages when a process fails and hide its exit code. Here their own words go to a file
in RUN/logs, rank 0 keeps the terminal, and its exit code is the command's.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from ..config import Config
from ..errors import UserError
from ..training.interrupt import INTERRUPTED_EXIT
from .heartbeat import RankLost

_REPORTS = "SERESNEXT_REPORTS"
"""Folder in which each process started by `launch` leaves its id and, at its end, its exit code."""
_RANK_0_FIRST = 10.0
"""Seconds that another rank waits before it says its error on the terminal: mostly all ranks have
the same, rank 0 says it at once, and the others are ended meanwhile."""


# One process among several -----------------------------------------------------------------


def world_size() -> int:
    """Processes of this run, as torchrun or msrun tells them; 1 without either."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("MS_WORKER_NUM") or 1)


def rank() -> int:
    """This process's number among them, 0 without torchrun or msrun."""
    return int(os.environ.get("RANK") or os.environ.get("RANK_ID") or 0)


@contextlib.contextmanager
def rank_output(run: Path) -> Iterator[None]:
    """Rank 0 keeps stdout and stderr; while entered, another rank's go to RUN/logs/rank-N.log.

    File descriptors, not Python's objects, so that native libraries' words go there too. A
    UserError that rank 0 does not share is said on the terminal after all.
    """
    if rank() == 0:
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
        raise  # rank 0 tells that story
    except UserError as error:
        print(f"seresnext: error: {error}", file=sys.stderr, flush=True)
        time.sleep(_RANK_0_FIRST)
        os.dup2(terminal, 2)
        raise UserError(f"rank {rank()}: {error}") from None
    finally:
        os.close(terminal)


def rank_logs(run: Path) -> Path:
    """RUN/logs, made if need be."""
    logs = run / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {logs}: {error.strerror}") from None
    return logs


def report(code: int | None = None) -> None:
    """Tell `launch`, where it started this process, that it runs, or that it ends with `code`."""
    folder = os.environ.get(_REPORTS)
    # msrun's scheduler runs the same program and calls itself rank 0 too.
    if folder and os.path.isdir(folder) and os.environ.get("MS_ROLE") != "MS_SCHED":
        text = str(os.getpid()) if code is None else f"{os.getpid()} {code}"
        Path(folder, str(rank())).write_text(text)


# The command that starts them --------------------------------------------------------------


def launch(config: Config, words: list[str], processes: int) -> int:
    """Run `seresnext train WORDS` in `processes` processes; returns the exit code."""
    logs = rank_logs(Path(config.run.out))
    words = ["-m", "seresnext", "train", *words]
    if config.engine.name == "torch":
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        return supervise(muted(logs / "torchrun.log", [*torchrun, *words]), logs)
    first = logs / "worker_0.log"
    first.unlink(missing_ok=True)  # an earlier start's
    msrun = [
        *("mindspore.parallel.cluster.run", "--worker_num", str(processes)),
        *("--local_worker_num", str(processes), "--master_port", str(free_port())),
        # msrun's own way of showing the first rank's words loses the last lines.
        *("--log_dir", str(logs), "--join", "True", "--tail_worker_log", "-2", "python"),
    ]
    return supervise(muted(logs / "msrun.log", [*msrun, *words]), logs, msrun_environment(), first)


def msrun_environment() -> dict[str, str]:
    """This process's environment, made fit for msrun."""
    # msrun starts whatever `python` comes first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # MindSpore warns of every connection that it makes.
    return {"GLOG_v": "3", **os.environ, "PATH": path}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def supervise(
    command: list[str],
    logs: Path,
    environment: Mapping[str, str] = os.environ,
    msrun_log: Path | None = None,
) -> int:
    """Run a command that starts ranks, to its end; returns the exit code, the first rank's or 75.

    Each rank tells by `report` that it runs and how it ended. The first SIGTERM, SIGINT or SIGHUP
    is passed on to the ranks, once, and the run saves itself; a second one kills all processes.
    `msrun_log`, the file where msrun puts the first rank's words, is shown as it grows.
    """
    with tempfile.TemporaryDirectory(prefix="seresnext-") as reports:
        starter = subprocess.Popen(
            command,
            env={**environment, _REPORTS: reports},
            start_new_session=True,  # Ctrl-C reaches this process only, and is passed on once
        )
        signals = _PassOn(starter, Path(reports))
        with signals, _shown(msrun_log) if msrun_log else contextlib.nullcontext():
            # Not `wait()`: a signal that comes as it begins would be heard at its end.
            while starter.poll() is None:
                time.sleep(0.1)
        codes = {number: code for number, (_, code) in _reports(Path(reports)).items()}
    first = codes[min(codes)] if codes else None  # of several machines, one has rank 0
    if starter.returncode == 0:
        return 0
    if signals.killed:
        return 128 + signals.killed
    if INTERRUPTED_EXIT in codes.values():  # all agreed to stop before any did
        return INTERRUPTED_EXIT
    if first is None:
        if signals.asked:  # before there was anything to save
            return 128 + signals.asked
        print(f"seresnext: error: a process ended early; see {logs}", file=sys.stderr)
    return first or 1


@contextlib.contextmanager
def _shown(log: Path) -> Iterator[None]:
    """While entered, what is written to `log` appears on stdout, and the rest of it at the end."""
    ended = threading.Event()

    def follow() -> None:
        done, last = 0, False
        while not last:
            last = ended.wait(0.2)
            if log.exists():
                with log.open("rb") as file:
                    file.seek(done)
                    words = file.read()
                done += len(words)
                os.write(1, words)

    thread = threading.Thread(target=follow, name="rank-words")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def muted(log: Path, words: list[str]) -> list[str]:
    """The command `python -m WORDS` whose own words, not those of what it starts, go to `log`."""
    return [sys.executable, "-m", "seresnext.launch.processes", str(log), *words]


class _PassOn:
    """While entered, signals to this process reach the ranks that it started.

    Not by way of the starter: msrun would kill them, and torchrun, whose handler raises an
    exception wherever it happens to be, now and then loses one.
    """

    def __init__(self, starter: subprocess.Popen[bytes], reports: Path) -> None:
        self.starter, self.reports = starter, reports
        self.asked = self.killed = 0
        """The signal that asked all to end, the one that killed them; 0 for none yet."""

    def __enter__(self) -> _PassOn:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        self.earlier = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = number
            for process in self._ranks() or [self.starter.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
            return
        self.killed = number
        for process in self._ranks():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.starter.pid, signal.SIGKILL)

    def _ranks(self) -> list[int]:
        return [process for process, code in _reports(self.reports).values() if code is None]


def _reports(folder: Path) -> dict[int, tuple[int, int | None]]:
    """Rank -> process id and exit code, None while it runs or when it was killed."""
    found: dict[int, tuple[int, int | None]] = {}
    for file in folder.iterdir():
        if text := file.read_text():  # empty at the moment of being written
            process, *code = map(int, text.split())
            found[int(file.name)] = (process, code[0] if code else None)
    return found


if __name__ == "__main__":  # python -m seresnext.launch.processes LOG MODULE ARGUMENTS...
    _, _log, *sys.argv = sys.argv
    # The processes started by the module inherit file descriptors 1 and 2, not these objects.
    sys.stdout = sys.stderr = open(_log, "a", buffering=1)  # noqa: SIM115 (until the end)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
