"""SIGTERM and SIGINT: finish the step, save, leave. A second signal ends at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED_EXIT = 75
"""Exit code of a run that was interrupted and saved (EX_TEMPFAIL of sysexits.h: try again)."""


class Interrupted(Exception):
    """The run was asked to stop; its state is saved and the same command resumes it."""


class Interrupt:
    """While entered, `requested` turns true at the first SIGTERM or SIGINT."""

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Interrupt:
        self._earlier = {number: signal.signal(number, self._handle) for number in self.signals}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True
