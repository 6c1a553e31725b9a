"""Counters and histograms in Prometheus' text format."""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)

Labels = tuple[tuple[str, str], ...]


@dataclass
class _Counter:
    values: dict[Labels, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, labels: Labels, value: float) -> None:
        self.values[labels] += value

    def lines(self, name: str) -> list[str]:
        return [f"{name}{_text(labels)} {value:g}" for labels, value in self.values.items()]


@dataclass
class _Histogram:
    bounds: tuple[float, ...]
    counts: dict[Labels, list[int]] = field(default_factory=dict)
    sums: dict[Labels, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, labels: Labels, value: float) -> None:
        counts = self.counts.setdefault(labels, [0] * (len(self.bounds) + 1))
        counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sums[labels] += value

    def lines(self, name: str) -> list[str]:
        lines = []
        for labels, counts in self.counts.items():
            total = 0
            for bound, count in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
                total += count
                lines.append(f"{name}_bucket{_text((*labels, ('le', bound)))} {total}")
            lines.append(f"{name}_sum{_text(labels)} {self.sums[labels]:g}")
            lines.append(f"{name}_count{_text(labels)} {total}")
        return lines


class Metrics:
    """What the server has done since its start. Used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._series: dict[str, tuple[str, _Counter | _Histogram]] = {
            "seresnext_requests_total": ("Requests answered, by route and status.", _Counter()),
            "seresnext_errors_total": ("Requests not answered as asked, by kind.", _Counter()),
            "seresnext_images_total": ("Images computed, by model.", _Counter()),
            "seresnext_request_seconds": (
                "From the request's header to the end of its answer.",
                _Histogram(_SECONDS),
            ),
            "seresnext_batch_images": ("Images computed together.", _Histogram(_IMAGES)),
            "seresnext_batch_seconds": ("Computation of a batch.", _Histogram(_SECONDS)),
        }

    def gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Show the value of `read()`, taken when the metrics are asked for."""
        self._gauges[f"seresnext_{name}"] = (what, read)

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Count `value` in the series `name`, without its prefix."""
        with self._lock:
            self._series[f"seresnext_{name}"][1].add(tuple(labels.items()), value)

    def batch(self, model: str, images: int, seconds: float) -> None:
        """Count one computed batch."""
        self.add("images_total", images, model=model)
        self.add("batch_images", images, model=model)
        self.add("batch_seconds", seconds, model=model)

    def text(self) -> str:
        """Return all of it."""
        lines: list[str] = []
        with self._lock:
            for name, (what, series) in self._series.items():
                kind = "counter" if isinstance(series, _Counter) else "histogram"
                lines += [f"# HELP {name} {what}", f"# TYPE {name} {kind}", *series.lines(name)]
        for name, (what, read) in self._gauges.items():
            lines += [f"# HELP {name} {what}", f"# TYPE {name} gauge", f"{name} {read():g}"]
        return "\n".join(lines) + "\n"


def _text(labels: Labels) -> str:
    pairs = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{pairs}}}" if pairs else ""
