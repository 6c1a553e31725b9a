"""Heartbeats between ranks, so that none waits for a rank that is gone.

A collective that waits for a dead rank fails after minutes, or never, and names a socket instead
of a process. So every rank keeps a TCP connection to rank 0 beside the framework's own, with a byte
each second as a heartbeat, and the reason when a rank fails. Slow ranks (compiling, a cold disk)
are tolerated; silent ones count as lost. It works for every framework, at no measurable cost.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..training.interrupt import Interrupted

_INTERVAL = 1.0
"""Seconds between heartbeats."""
_GRACE = 8.0
"""Seconds that a rank has to end by itself, a checkpoint being written included, once another is
lost. With the 15 s of silence (`run.rank_timeout`) all processes have ended within 30 s."""
_CAUSE_WAIT = 2.0
"""Seconds that a failed rank waits for another rank's reason: when one dies, the collectives of the
others fail too, and only the first failure is the cause."""
_CONNECT = 60.0
"""Seconds for all ranks to connect; they have just completed a collective."""
_FAILED, _DONE = b"!", b"."
_HERE = "127.0.0.1"
_HELLO = struct.Struct("<qq")
"""Rank and token."""


class RankLost(UserError):
    """The run ends because another rank did; rank 0 reports the reason."""


class Watch:
    """While entered, a rank that ends, fails or falls silent ends this process too.

    On an exception, `__exit__` sends the reason to the others; a rank other than 0 then raises
    RankLost instead of a UserError. If another rank was lost first, it raises RankLost with that
    rank's reason. A process that does not reach `__exit__`, because it hangs in a collective, is
    ended from here with exit code 1.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        all_sum: Callable[[NDArray[Any]], NDArray[Any]],
        silence: float,
    ) -> None:
        """`all_sum` sums int64 arrays over the ranks; `silence` is in seconds."""
        self.rank, self.world_size, self.all_sum = rank, world_size, all_sum
        self.silence = silence
        self.peers: dict[int, socket.socket] = {}
        self.reason = ""
        self._lost = threading.Event()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        if self.world_size > 1:
            self._waker, self._wake = socket.socketpair()
            self.peers = self._gather() if self.rank == 0 else {0: self._join()}
            self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.world_size == 1:
            return
        failed = error is not None and not isinstance(error, Interrupted)
        if failed and not isinstance(error, UserError):
            self._lost.wait(_CAUSE_WAIT + (self.rank == 0))
        self._leaving.set()
        self._waker.send(b"\n")
        self._thread.join()
        if not failed:
            self._send_line(_DONE)
        elif not self.reason:
            name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self._send_line(_FAILED, f"rank {self.rank}: {name}{error}")
        for connection in (*self.peers.values(), self._wake, self._waker):
            connection.close()
        if not failed:
            return
        # What remains, closing the engine above all, may wait for the lost rank.
        end = threading.Timer(_GRACE, os._exit, (1,))
        end.daemon = True
        end.start()
        if isinstance(error, UserError):
            if self.rank > 0:
                raise RankLost(str(error)) from error
        elif self.reason:
            raise RankLost(self.reason) from error

    # Connecting ----------------------------------------------------------------------------

    def _gather(self) -> dict[int, socket.socket]:
        """Rank 0: accept a connection from every other rank."""
        token = secrets.randbits(62)  # other programs that connect to the port are rejected
        with self._listen() as server:
            self.all_sum(np.array([server.getsockname()[1], token], np.int64))
            server.settimeout(_CONNECT)
            peers: dict[int, socket.socket] = {}
            while len(peers) < self.world_size - 1:
                connection, _ = server.accept()
                connection.settimeout(_INTERVAL)
                with contextlib.suppress(OSError, struct.error):
                    number, key = _HELLO.unpack(connection.recv(_HELLO.size, socket.MSG_WAITALL))
                    if key == token:
                        peers[number] = connection
                        continue
                connection.close()
        return peers

    def _listen(self) -> socket.socket:
        if self._host() == _HERE:
            return socket.create_server((_HERE, 0))
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", 0))

    def _join(self) -> socket.socket:
        """Another rank: connect to rank 0."""
        port, token = (int(n) for n in self.all_sum(np.zeros(2, np.int64)))
        address = (self._host(), port)
        try:
            connection = socket.create_connection(address, timeout=_CONNECT)
        except OSError as error:
            raise UserError(
                f"rank {self.rank} cannot reach rank 0 at {address[0]}:{address[1]} ({error}); "
                "machines of one run must be able to connect to each other on any port"
            ) from None
        connection.sendall(_HELLO.pack(self.rank, token))
        return connection

    def _host(self) -> str:
        """Address of rank 0, as torchrun and msrun set it."""
        if os.environ.get("LOCAL_WORLD_SIZE") == str(self.world_size):
            return _HERE
        return os.environ.get("MASTER_ADDR") or os.environ.get("MS_SCHED_HOST") or _HERE

    # Watching ------------------------------------------------------------------------------

    def _run(self) -> None:
        """The thread: send and receive heartbeats until this process ends or a rank is lost."""
        heard = dict.fromkeys(self.peers, time.monotonic())
        messages = dict.fromkeys(self.peers, b"")
        with selectors.DefaultSelector() as selector:
            for peer, connection in self.peers.items():
                connection.settimeout(_INTERVAL)
                selector.register(connection, selectors.EVENT_READ, peer)
            selector.register(self._wake, selectors.EVENT_READ, -1)
            beat = time.monotonic()
            while self.peers:
                events = selector.select(max(beat - time.monotonic(), 0))
                if self._leaving.is_set():
                    return
                now = time.monotonic()
                if now > beat + 3 * _INTERVAL:  # this process was suspended itself
                    heard = dict.fromkeys(heard, now)
                for key, _ in events:
                    heard[key.data] = now
                    messages[key.data] = self._receive(key.data, messages[key.data])
                    if key.data not in self.peers:
                        selector.unregister(key.fileobj)
                for peer in self.peers:
                    if now - heard[peer] > self.silence:
                        self._lose(f"rank {peer} gave no sign of life for {self.silence:g} s")
                if self._lost.is_set():
                    break
                if now >= beat:
                    beat = now + _INTERVAL
                    self._send(b"\n")
        if self._lost.is_set():
            self._send_line(_FAILED, self.reason)
            if not self._leaving.wait(_GRACE):
                print(f"seresnext: error: {self.reason}", file=sys.stderr, flush=True)
                os._exit(1)

    def _receive(self, peer: int, before: bytes) -> bytes:
        """Receive what `peer` sent; return the beginning of a line that is not complete yet."""
        try:
            data = self.peers[peer].recv(65536)
        except OSError:
            data = b""
        *lines, rest = (before + data).split(b"\n")
        for line in lines:
            if line.startswith(_FAILED):
                self._lose(line[1:].decode(errors="replace"))
            elif line.startswith(_DONE):
                self.peers.pop(peer).close()
                return b""
        if not data:
            self._lose(f"rank {peer} ended without a word (killed, or out of memory)")
        return rest

    def _lose(self, reason: str) -> None:
        if not self._lost.is_set():
            self.reason = reason
            self._lost.set()

    def _send_line(self, kind: bytes, text: str = "") -> None:
        self._send(kind + " ".join(text.split()).encode() + b"\n")

    def _send(self, data: bytes) -> None:
        for connection in self.peers.values():
            with contextlib.suppress(OSError):  # it is gone; the next `recv` fails
                connection.sendall(data)
