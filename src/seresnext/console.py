"""Standard streams that are missing, closed, full, or end while a command runs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from .errors import UserError, printable


def open_standard_streams() -> None:
    """Open /dev/null in the place of standard streams that were closed at the start.

    The next file to be opened would take the number of the missing stream, and what a library
    prints would be written into it. What the locale's encoding lacks is printed escaped.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def own_messages() -> Iterator[None]:
    """Print this package's messages in its own form during the block, whatever libraries set."""
    logger, handler = logging.getLogger("seresnext"), _Messages()
    before = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before[0]
        logger.setLevel(before[1])


class _Messages(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        kind = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        print(printable(f"{kind}{record.getMessage()}"), file=sys.stderr)


def discard(handle: int) -> None:
    """Send what is written to a file descriptor from now on to /dev/null."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, handle)
        os.close(null)


class _Output:
    """A text stream that cannot fail, or fails with a UserError or BrokenPipeError."""

    def __init__(self, stream: Any, survives: bool, *, silent: bool = False) -> None:
        self.stream, self.survives, self.silent = stream, survives, silent

    def write(self, text: str) -> int:
        try:
            return int(self.stream.write(text))
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _lose(self, error: OSError) -> None:
        with contextlib.suppress(OSError):
            discard(self.stream.fileno())
        if not self.survives:
            if isinstance(error, BrokenPipeError):
                raise error
            raise UserError(f"cannot write to the standard output: {error.strerror}") from None
        if not self.silent:
            self.silent = True
            print(
                f"warning: the standard output is lost ({error.strerror}); the run goes on, its "
                "log is metrics.jsonl in the run folder",
                file=sys.stderr,
            )


@contextlib.contextmanager
def guarded_output(*, survives: bool = False) -> Iterator[None]:
    """Make what Python prints during the block raise UserError where it cannot be written.

    BrokenPipeError stays, for the end of a reader such as `head`. With `survives` nothing is
    raised, and what is printed after a failure is discarded. Errors on stderr never raise.
    """
    earlier = sys.stdout, sys.stderr
    out, errors = (getattr(s, "stream", s) if isinstance(s, _Output) else s for s in earlier)
    sys.stdout, sys.stderr = _Output(out, survives), _Output(errors, True, silent=True)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = earlier
