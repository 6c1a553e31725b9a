"""SIGTERM and SIGINT: finish the step, save, leave. A second signal ends at once."""

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


class Interrupt:
    """While entered, `requested` turns true at the first SIGTERM or SIGINT.

    Signals reach a process's main thread only; in another thread nothing is changed.
    """

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Interrupt:
        self._earlier = {}
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._handle) for number in self.signals}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True
