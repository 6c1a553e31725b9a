"""Ranks that watch each other, so that none waits for one that is gone.

A collective that waits for a dead rank fails after minutes, or never, and names a socket instead
of a process. So every rank keeps a TCP connection to rank 0 beside the framework's own: a byte
each second as a sign of life, and the reason when one fails. Being slow (compiling, a cold disk)
is no crime; being silent is. It knows no framework and costs nothing that can be measured.
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
from types import TracebackType

import numpy as np

from ..errors import UserError
from ..training.interrupt import Interrupted

_INTERVAL = 1.0
"""Seconds between signs of life."""
_GRACE = 8.0
"""Seconds that a rank has to leave by itself, a checkpoint being written included, once another
is lost. With the 15 s of silence (`run.rank_timeout`) all is over within 30 s."""
_HEARSAY = 2.0
"""Seconds that a failed rank waits to hear whether another failed first: when one dies, the
collectives of the others fail too, and theirs is not the story to tell."""
_MEETING = 60.0
"""Seconds for all ranks to connect; they have just met in a collective."""
_FAILED, _DONE = b"!", b"."
_HERE = "127.0.0.1"
_HELLO = struct.Struct("<qq")
"""Rank and token."""


class RankLost(UserError):
    """The run ends because one rank did; rank 0 knows the story too, and is the one to say it."""


class Watch:
    """While entered, a rank that ends, fails or falls silent ends this process too.

    Leaving it with an exception tells the others why; a rank other than 0 then raises RankLost
    instead of a UserError. Where another rank was lost first, leaving raises RankLost with its
    story. A process that does not get to leaving, because it hangs in a collective, is ended from
    here with exit code 1.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        all_sum: Callable[[np.ndarray], np.ndarray],
        silence: float,
    ) -> None:
        """`all_sum` sums int64 arrays over the ranks; `silence` is in seconds."""
        self.rank, self.world_size, self.all_sum = rank, world_size, all_sum
        self.silence = silence
        self.peers: dict[int, socket.socket] = {}
        self.story = ""
        self._lost = threading.Event()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        if self.world_size > 1:
            self._waker, self._wake = socket.socketpair()
            self.peers = self._gather() if self.rank == 0 else {0: self._join()}
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.world_size == 1:
            return
        failed = error is not None and not isinstance(error, Interrupted)
        if failed and not isinstance(error, UserError):
            self._lost.wait(_HEARSAY + (self.rank == 0))
        self._leaving.set()
        self._waker.send(b"\n")
        self._thread.join()
        if not failed:
            self._tell(_DONE)
        elif not self.story:
            name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self._tell(_FAILED, f"rank {self.rank}: {name}{error}")
        for connection in (*self.peers.values(), self._wake, self._waker):
            connection.close()
        if not failed:
            return
        # What is left to do, closing the engine above all, may wait for the lost rank.
        end = threading.Timer(_GRACE, os._exit, (1,))
        end.daemon = True
        end.start()
        if isinstance(error, UserError):
            if self.rank > 0:
                raise RankLost(str(error)) from error
        elif self.story:
            raise RankLost(self.story) from error

    # Meeting -------------------------------------------------------------------------------

    def _gather(self) -> dict[int, socket.socket]:
        """Rank 0: a connection from every other rank."""
        token = secrets.randbits(62)  # so that a stranger who finds the port cannot end the run
        with self._listen() as server:
            self.all_sum(np.array([server.getsockname()[1], token], np.int64))
            server.settimeout(_MEETING)
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
        """Another rank: its connection to rank 0."""
        port, token = (int(n) for n in self.all_sum(np.zeros(2, np.int64)))
        address = (self._host(), port)
        try:
            connection = socket.create_connection(address, timeout=_MEETING)
        except OSError as error:
            raise UserError(
                f"rank {self.rank} cannot reach rank 0 at {address[0]}:{address[1]} ({error}); "
                "machines of one run must be able to connect to each other on any port"
            ) from None
        connection.sendall(_HELLO.pack(self.rank, token))
        return connection

    def _host(self) -> str:
        """Where rank 0 is, as torchrun and msrun tell it."""
        if os.environ.get("LOCAL_WORLD_SIZE") == str(self.world_size):
            return _HERE
        return os.environ.get("MASTER_ADDR") or os.environ.get("MS_SCHED_HOST") or _HERE

    # Watching ------------------------------------------------------------------------------

    def _run(self) -> None:
        """The thread: hear and be heard until this process leaves or a rank is lost."""
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
                if now > beat + 3 * _INTERVAL:  # this process was stopped itself
                    heard = dict.fromkeys(heard, now)
                for key, _ in events:
                    heard[key.data] = now
                    messages[key.data] = self._hear(key.data, messages[key.data])
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
            self._tell(_FAILED, self.story)
            if not self._leaving.wait(_GRACE):
                print(f"seresnext: error: {self.story}", file=sys.stderr, flush=True)
                os._exit(1)

    def _hear(self, peer: int, before: bytes) -> bytes:
        """Take what `peer` sent; returns the beginning of a line whose end is still to come."""
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

    def _lose(self, story: str) -> None:
        if not self._lost.is_set():
            self.story = story
            self._lost.set()

    def _tell(self, kind: bytes, text: str = "") -> None:
        self._send(kind + " ".join(text.split()).encode() + b"\n")

    def _send(self, data: bytes) -> None:
        for connection in self.peers.values():
            with contextlib.suppress(OSError):  # it is gone; the next `recv` says so
                connection.sendall(data)
