"""Processes that take turns: each measures one thing, while the others wait."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from ..errors import UserError

Work = Callable[..., None]
"""Called in the process with what `start` was given, and a connection. It sends an answer at once,
then one for each request, until the connection ends (EOFError)."""


class Worker:
    """A process, and the connection to it."""

    def __init__(self, name: str, work: Work, arguments: tuple[Any, ...], stops: bool) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.name, self._stops = name, stops
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=work, args=(*arguments, theirs))
        self._process.start()
        theirs.close()  # so that a process that dies ends the wait for its answer
        try:
            self.first = self._answer()
        except UserError:
            self.close()
            raise

    def ask(self, request: Any) -> Any:
        """Send a request and return the answer. Raises what the process sent as an error."""
        self._signal(signal.SIGCONT)
        self._pipe.send(request)
        return self._answer()

    def close(self) -> None:
        self._signal(signal.SIGCONT)
        self._pipe.close()
        self._process.join(10)
        self._process.kill()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise UserError(
                f"{self.name}: its process ended without an answer (out of memory?)"
            ) from None
        if isinstance(answer, UserError):
            raise answer
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        """Stop the process between its turns, where what it has begun would go on."""
        if self._stops and self._process.is_alive():
            os.kill(self._process.pid or 0, number)


class Workers:
    """All of them; they end with the block."""

    def __init__(self, stops: bool = False) -> None:
        """`stops`: those whose turn it is not are stopped, background threads and all."""
        self._stops, self._all = stops, list[Worker]()

    def __enter__(self) -> Workers:
        return self

    def start(self, name: str, work: Work, *arguments: Any) -> Worker:
        """Start a process, and wait for its first answer. Raises UserError where that is one."""
        worker = Worker(name, work, arguments, self._stops)
        self._all.append(worker)
        return worker

    def __exit__(self, *exception: object) -> None:
        for worker in self._all:
            worker.close()


def requests(connection: Connection) -> Iterator[Any]:
    """Yield what is asked for, to the end of the connection."""
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return
