"""SIGTERM, SIGINT, SIGHUP: finish the step, save, leave. A second signal ends at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

INTERRUPTED_EXIT = 75
"""Exit code of a run that was interrupted and saved (EX_TEMPFAIL of sysexits.h: try again)."""


class Interrupted(Exception):
    """The run was asked to stop; its state is saved, and the same command or call resumes it.

    >>> try:
    ...     raise seresnext.Interrupted  # as `train` does after Ctrl-C
    ... except seresnext.Interrupted:
    ...     print("call train again to go on")
    call train again to go on
    """


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a run to stop: not SIGHUP, a terminal's end, under nohup."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def is_repeated(number: int) -> bool:
    """Whether a signal may come along with another one: a terminal's end sends several SIGHUP,
    and a session's end SIGTERM with SIGHUP. Such a second signal asks for nothing more."""
    return number == signal.SIGHUP


class Interrupt:
    """While entered, `requested` turns true at the first of the `stop_signals`.

    Signals reach a process's main thread only; in another thread nothing is changed.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Interrupt:
        self._earlier = {}
        if threading.current_thread() is threading.main_thread():
            self._earlier = {
                number: signal.signal(number, self._handle) for number in stop_signals()
            }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not is_repeated(number):
            os._exit(128 + number)
        self.requested = True
