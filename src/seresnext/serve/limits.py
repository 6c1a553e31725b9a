"""What the server takes at most, and how it refuses the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import UserError

MAX_HEADER_BYTES = 16 << 10
"""Request line and headers together."""
MAX_JSON_BYTES = 8 << 20
"""JSON of a request. Parsed, it can take 20 times as much memory; binary tensors do not."""
BODIES = 8
"""Bodies of the largest size that all requests together may hold in memory."""

_RANGES = {
    "max_batch": (1, 1024),
    "max_delay_ms": (0, 10_000),
    "queue": (1, 100_000),
    "max_body": (0.001, 2048),
    "max_pixels": (1, 1_000_000_000),
    "deadline": (0.01, 3600),
    "client_deadline": (0.01, 3600),
    "connections": (1, 100_000),
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Batching, and the bounds of everything that clients send."""

    max_batch: int = 8
    """Images that are computed together at most."""
    max_delay_ms: float = 2.0
    """Milliseconds that an image waits for others to be computed with, if there are others."""
    queue: int = 64
    """Images in the server at a time: decoding, waiting, computing. Further ones are answered
    503."""
    max_body: float = 32.0
    """Megabytes of one request, after decompression."""
    max_pixels: int = 50_000_000
    """Pixels of one image, read from its header."""
    deadline: float = 30.0
    """Seconds from the complete request to its answer; then it is answered 504."""
    client_deadline: float = 20.0
    """Seconds that a client may take to send a header, to send a body, and to take an answer."""
    connections: int = 256
    """Connections at a time. Further ones are answered 503."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag}: expected {low} to {high:g}, got {value}")

    @property
    def body_bytes(self) -> int:
        """`max_body` in bytes."""
        return int(self.max_body * 1e6)


class Refusal(Exception):
    """A request that is answered with an error; `kind` is its label in the metrics."""

    def __init__(
        self, status: int, message: str, kind: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.headers = dict(headers or {})


RETRY = {"Retry-After": "1"}
"""Header of an answer that would be another one a moment later."""


def invalid(message: str) -> Refusal:
    """A request that is not formed as it should be: 400."""
    return Refusal(400, message, "invalid")


class Budget:
    """A quantity that all requests share: images, or bytes. Used from the event loop only."""

    def __init__(self, total: int, what: str) -> None:
        """`what` is counted, in the plural."""
        self.total, self.used, self._what = total, 0, what

    @property
    def full(self) -> bool:
        return self.used >= self.total

    @contextlib.contextmanager
    def share(self) -> Iterator[Share]:
        """Yield an empty share; whatever was taken into it is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.used -= share.amount

    def busy(self) -> Refusal:
        message = f"the server is busy ({self.total} {self._what} at a time); try again"
        return Refusal(503, message, "busy", RETRY)

    def too_large(self) -> Refusal:
        return Refusal(413, f"at most {self.total} {self._what} in a request", "too_large")


class Share:
    """What one request has of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self.amount = budget, 0

    def take(self, amount: int) -> None:
        """Take `amount` more. Raises Refusal: 503 if it is not left now, 413 if it never is."""
        if self.amount + amount > self._budget.total:
            raise self._budget.too_large()
        if self._budget.used + amount > self._budget.total:
            raise self._budget.busy()
        self._budget.used += amount
        self.amount += amount
