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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from .config import Config, EngineName
from .errors import UserError
from .training.interrupt import INTERRUPTED_EXIT
from .training.watch import RankLost

_REPORTS = "SERESNEXT_REPORTS"
"""Folder in which each process started by `launch` leaves its id and, at its end, its exit code."""
_RANK_0_FIRST = 2.0
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
    with _rank_log(run).open("ab") as log:
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


def _rank_log(run: Path) -> Path:
    logs = run / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {logs}: {error.strerror}") from None
    return logs / f"rank-{rank()}.log"


def report(code: int | None = None) -> None:
    """Tell `launch`, where it started this process, that it runs, or that it ends with `code`."""
    folder = os.environ.get(_REPORTS)
    if folder and os.path.isdir(folder):
        text = str(os.getpid()) if code is None else f"{os.getpid()} {code}"
        Path(folder, str(rank())).write_text(text)


# The command that starts them --------------------------------------------------------------


def launch(config: Config, words: list[str], processes: int) -> int:
    """Run `seresnext train WORDS` in `processes` processes; returns the exit code.

    The first SIGTERM, SIGINT or SIGHUP is passed on once and the run saves itself; a second one
    kills all processes.
    """
    logs = _rank_log(Path(config.run.out)).parent
    with tempfile.TemporaryDirectory(prefix="seresnext-") as reports:
        environment = {
            **os.environ,
            _REPORTS: reports,
            # torchrun kills processes that take longer than this to save and leave.
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600",
        }
        starter = subprocess.Popen(
            _COMMANDS[config.engine.name](processes, logs, ["seresnext", "train", *words]),
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process only, and is passed on once
        )
        signals = _PassOn(starter, Path(reports))
        with signals:
            starter.wait()
        codes = {number: code for number, (_, code) in _reports(Path(reports)).items()}
    if signals.killed or (signals.asked and codes.get(0) is None):
        return 128 + (signals.killed or signals.asked)
    return _exit_code(starter.returncode, codes, logs)


def _torchrun(processes: int, logs: Path, words: list[str]) -> list[str]:
    return [
        *(sys.executable, "-m", "seresnext.launch", str(logs / "torchrun.log")),
        *("torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"),
        *words,
    ]


_COMMANDS: dict[EngineName, Callable[[int, Path, list[str]], list[str]]] = {"torch": _torchrun}


class _PassOn:
    """While entered, signals to this process reach the ones it started."""

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
            with contextlib.suppress(ProcessLookupError):
                self.starter.send_signal(signal.SIGTERM)
            return
        self.killed = number
        for process, code in _reports(self.reports).values():
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.starter.pid, signal.SIGKILL)


def _reports(folder: Path) -> dict[int, tuple[int, int | None]]:
    """Rank -> process id and exit code, None while it runs or when it was killed."""
    found: dict[int, tuple[int, int | None]] = {}
    for file in folder.iterdir():
        if text := file.read_text():  # empty at the moment of being written
            process, *code = map(int, text.split())
            found[int(file.name)] = (process, code[0] if code else None)
    return found


def _exit_code(starter: int, codes: dict[int, int | None], logs: Path) -> int:
    """The command's, from the starter's, which is 0 or nothing sayable, and the ranks'."""
    if starter == 0:
        return 0
    if INTERRUPTED_EXIT in codes.values():  # all agreed to stop before any did
        return INTERRUPTED_EXIT
    if codes.get(0) is None:  # it had no chance to say why
        print(f"seresnext: error: rank 0 ended without a word; see {logs}", file=sys.stderr)
    return codes.get(0) or 1


if __name__ == "__main__":  # python -m seresnext.launch LOG MODULE ARGUMENTS...
    _, _log, *sys.argv = sys.argv
    # The processes started by the module inherit file descriptors 1 and 2, not these objects.
    sys.stdout = sys.stderr = open(_log, "a", buffering=1)  # noqa: SIM115 (until the end)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
