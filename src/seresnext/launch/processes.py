"""Start the ranks of a run on this machine, pass signals on to them, wait for their exit codes.

torchrun and msrun are made for clusters: they print pages when a process fails and hide its exit
code. Here their own output goes to a file in RUN/logs, rank 0 keeps the terminal, and its exit
code is the command's.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from ..config import Config
from ..console import discard
from ..training.interrupt import INTERRUPTED_EXIT, is_repeated, stop_signals
from . import msrun, torchrun
from .ranks import EXIT_CODES, Report, rank_logs, reports, scheduler_report


def launch(config: Config, arguments: list[str], processes: int) -> int:
    """Run `seresnext train ARGUMENTS` in `processes` processes; return the exit code."""
    logs = rank_logs(Path(config.run.out))
    program = ["-m", "seresnext", "train", *arguments]
    if config.engine.name == "torch":
        command = torchrun.command(processes, program)
        return supervise(muted(logs / "torchrun.log", command), logs)
    first = logs / "worker_0.log"
    first.unlink(missing_ok=True)  # of an earlier start
    command = muted(logs / "msrun.log", msrun.command(processes, logs, program))
    return supervise(command, logs, msrun.environment(), first)


def muted(log: Path, arguments: list[str]) -> list[str]:
    """Return the command `python -m ARGUMENTS`; its own output, not its children's, is in `log`."""
    return [sys.executable, "-m", __name__, str(log), *arguments]


def supervise(
    command: list[str],
    logs: Path,
    environment: Mapping[str, str] = os.environ,
    msrun_log: Path | None = None,
) -> int:
    """Run a command that starts ranks; return the exit code of the first rank, or 75.

    Each rank reports by `report_exit` that it runs and how it ended; if the first one, which has
    the terminal, is killed without a word, the cause is printed here. The first SIGTERM, SIGINT or
    SIGHUP is passed on to the ranks, once, and the run saves itself; a second one, but for SIGHUP,
    kills all processes. `msrun_log`, the file to which msrun writes the first rank's output, is
    shown as it grows.
    """
    with tempfile.TemporaryDirectory(prefix="seresnext-") as folder:
        starter = subprocess.Popen(
            command,
            env={**environment, EXIT_CODES: folder},
            start_new_session=True,  # Ctrl-C reaches this process only, which passes it on once
            # At a failure msrun prints pages of what is in the scheduler's log.
            stdout=subprocess.DEVNULL if msrun_log else None,
            stderr=subprocess.DEVNULL if msrun_log else None,
        )
        cause = ""
        signals = _SignalRelay(starter, Path(folder))
        with signals, _shown(msrun_log) if msrun_log else contextlib.nullcontext():
            # Not `wait()`: a signal that arrives as it begins would be handled at its end.
            while starter.poll() is None:
                time.sleep(0.1)
                ranks = reports(Path(folder))
                cause = cause or _cause(ranks)
                if cause:
                    _end_scheduler(ranks, scheduler_report(Path(folder)))
        ranks = reports(Path(folder))
    codes = {rank: report.code for rank, report in ranks.items()}
    first = codes[min(codes)] if codes else None  # of several machines, one has rank 0
    if starter.returncode == 0 and not any(code != 0 for code in codes.values()):
        return 0
    if signals.killed:
        return 128 + signals.killed
    if INTERRUPTED_EXIT in codes.values():  # all agreed to stop before any did
        return INTERRUPTED_EXIT
    if first is None:
        if signals.asked:  # before there was anything to save
            return 128 + signals.asked
        cause = cause or _cause(ranks) or "a process ended early"
        print(f"seresnext: error: {cause}; see {logs}", file=sys.stderr)
    return first or 1


def _cause(ranks: Mapping[int, Report]) -> str:
    """Return why the first ranks to fail did; empty while none has. One that fails takes the others
    with it within a second."""
    failed = {number: report for number, report in ranks.items() if report.failed()}
    for number, report in failed.items():
        if report.reason:
            own = "" if report.reason.startswith("rank ") else f"rank {number}: "
            return f"{own}{report.reason}"
    if not failed:
        return ""
    names = " and ".join(f"rank {number}" for number in sorted(failed))
    return f"{names} ended without a word (killed, or out of memory)"


def _end_scheduler(ranks: Mapping[int, Report], scheduler: Report | None) -> None:
    """End msrun's scheduler once no rank is left: by itself it waits half a minute for them."""
    if scheduler and not any(report.running() for report in ranks.values()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(scheduler.process, signal.SIGKILL)


@contextlib.contextmanager
def _shown(log: Path) -> Iterator[None]:
    """Copy what is written to `log` during the block to stdout, the rest at its end."""
    ended = threading.Event()

    def follow() -> None:
        done, last = 0, False
        while not last:
            last = ended.wait(0.2)
            if log.exists():
                with log.open("rb") as file:
                    file.seek(done)
                    output = file.read()
                done += len(output)
                try:
                    os.write(1, output)
                except OSError:  # the terminal or the reader is gone; the ranks go on
                    discard(1)

    thread = threading.Thread(target=follow, name="rank-output")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _SignalRelay:
    """Passes this process's signals on to the ranks while it is entered.

    Not by way of the starter: msrun would kill the ranks, and torchrun, whose handler raises an
    exception wherever it happens to be, now and then loses a signal.
    """

    def __init__(self, starter: subprocess.Popen[bytes], reports: Path) -> None:
        self.starter, self.reports = starter, reports
        self.asked = self.killed = 0
        """The signal that asked all to end, the one that killed them; 0 for none yet."""

    def __enter__(self) -> _SignalRelay:
        self.earlier = {n: signal.signal(n, self._handle) for n in stop_signals()}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        running = [r.process for r in reports(self.reports).values() if r.code is None]
        if not self.asked:
            self.asked = number
            for process in running or [self.starter.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
            return
        if is_repeated(number):
            return
        self.killed = number
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.starter.pid, signal.SIGKILL)


if __name__ == "__main__":  # python -m seresnext.launch.processes LOG MODULE ARGUMENTS...
    _, _log, *sys.argv = sys.argv
    # Processes started by the module inherit file descriptors 1 and 2, not these objects.
    sys.stdout = sys.stderr = open(_log, "a", buffering=1)  # noqa: SIM115 (until the end)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
