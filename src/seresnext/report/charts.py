"""Charts as SVG text. Colours, fonts and the dark scheme come from the page's style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import printable

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
COLOURS = 8
"""Classes c0 to c7 of the style sheet."""
WIDE = 30
POINTS = 600
"""More points of a line than this cannot be told apart at this width."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line with a tooltip: something that happened at `x`."""

    x: float
    text: str
    kind: str = "mark"


@dataclass(frozen=True)
class Axis:
    """How values become text, and what they are."""

    title: str
    percent: bool = False
    zero: bool = False
    """Whether the axis begins at 0."""
    wide: bool = False
    """Whether it is logarithmic where one value is more than `WIDE` times another."""
    powers: bool = False
    """Whether values are powers of ten, given by their exponents."""

    def step(self, low: float, high: float) -> float:
        """Return the distance of ticks."""
        return max(tick_step(low, high), 1.0 if self.powers else 0.0)

    def label(self, value: float, step: float) -> str:
        """Return a tick's text, with as many decimals as the distance of ticks needs."""
        if self.powers:
            return f"{10**value:g}"
        if not self.percent:
            return f"{value:g}"
        return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9) - 2)}%}"


def escape(text: str) -> str:
    """Return a name for an element or a quoted attribute, its control characters made visible."""
    return html.escape(printable(text))


def line_chart(lines: Sequence[Line], x: Axis, y: Axis, marks: Sequence[Mark] = ()) -> str:
    """Return a chart of lines; values that are not finite leave a gap."""
    known = [v for line in lines for v in line.y if math.isfinite(v)]
    if y.wide and known and 0 < WIDE * min(known) < max(known):
        lines = [replace(line, y=np.log10(line.y).tolist()) for line in lines]
        y = replace(y, powers=True)
    frame = _Frame.around(lines, x, y)
    body = [frame.grid(x, y)]
    body += [frame.mark(mark) for mark in marks]
    body += [frame.path(line) for line in lines]
    return _svg(f"{y.title} by {x.title}", body)


def reliability_chart(confidence: Sequence[float], accuracy: Sequence[float], width: float) -> str:
    """Return the reliability diagram: a bar a bin, beside the diagonal of perfect calibration."""
    frame = _Frame((0.0, 1.0), (0.0, 1.0))
    body = [frame.grid(Axis("probability said", percent=True), Axis("share right", percent=True))]
    for c, a in zip(confidence, accuracy, strict=True):
        left = math.floor(min(c, 0.9999) / width) * width
        x, top = frame.x(left), frame.y(a)
        body.append(
            f'<rect class="fill c0" x="{x + 1:.1f}" y="{top:.1f}" '
            f'width="{frame.x(left + width) - x - 2:.1f}" height="{frame.y(0) - top:.1f}">'
            f"<title>said {c:.1%}, right {a:.1%}</title></rect>"
        )
    diagonal = [frame.x(0), frame.y(0), frame.x(1), frame.y(1)]
    body.append(
        '<line class="diagonal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*diagonal)
    )
    return _svg("share of right answers by probability", body)


def matrix_chart(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """Return a confusion matrix [K, K] of up to some 40 classes: rows are labels."""
    size, classes = 30 if len(names) <= 15 else 18, len(names)
    longest = max(len(name) for name in names)
    margin = min(10 + 6.2 * longest, 150)
    side = size * classes
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    body = []
    for i, name in enumerate(names):
        middle = margin + size * (i + 0.5)
        label = escape(name if len(name) <= 22 else f"{name[:21]}…")
        body.append(f'<text class="end" x="{margin - 5:.1f}" y="{middle + 4:.1f}">{label}</text>')
        body.append(
            f'<text class="start" transform="translate({middle + 4:.1f} {margin - 5:.1f}) '
            f'rotate(-90)">{label}</text>'
        )
    for row, column in np.argwhere(counts).tolist():
        x, y, share = margin + size * column, margin + size * row, shares[row, column]
        kind = "hit" if row == column else "miss"
        body.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{size - 1}" '
            f'height="{size - 1}" fill-opacity="{0.12 + 0.88 * share:.2f}"><title>'
            f"{escape(names[row])} taken for {escape(names[column])}: "
            f"{counts[row, column]} ({share:.1%})</title></rect>"
        )
        if classes <= 15:
            strong = " strong" if share > 0.5 else ""
            body.append(
                f'<text class="middle{strong}" x="{x + size / 2 - 0.5:.1f}" '
                f'y="{y + size / 2 + 4:.1f}">{counts[row, column]}</text>'
            )
    total = margin + side
    return _svg("confusion matrix", body, total + 2, total + 2, fixed=True)


def legend(names: Sequence[tuple[str, int, bool]]) -> str:
    """Return the key of a chart: (name, colour, dashed)."""
    keys = "".join(
        f'<span><i class="key c{colour % COLOURS}{" dashed" if dashed else ""}"></i>'
        f"{escape(name)}</span>"
        for name, colour, dashed in names
    )
    return f'<p class="legend">{keys}</p>'


class _Frame:
    """Data coordinates -> pixels of the chart."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x_range, self.y_range = x, y

    @classmethod
    def around(cls, lines: Sequence[Line], x: Axis, y: Axis) -> _Frame:
        """All values of the lines, up to the next ticks."""
        low, high = _range([v for line in lines for v in line.y], y)
        step = y.step(low, high)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(_range([v for line in lines for v in line.x], x), (low, high))

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    def grid(self, x: Axis, y: Axis) -> str:
        parts = []
        step = y.step(*self.y_range)
        for value in ticks(*self.y_range, step):
            at = self.y(value)
            parts.append(
                f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
            )
            parts.append(
                f'<text class="end" x="{LEFT - 6}" y="{at + 4:.1f}">{y.label(value, step)}</text>'
            )
        step = x.step(*self.x_range)
        for value in ticks(*self.x_range, step):
            parts.append(
                f'<text class="middle" x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 16}">'
                f"{x.label(value, step)}</text>"
            )
        parts.append(
            f'<text class="middle faint" x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 4}">'
            f"{escape(x.title)}</text>"
        )
        return "".join(parts)

    def path(self, line: Line) -> str:
        step = max(1, math.ceil(len(line.x) / POINTS))
        points, pen = [], "M"
        chosen = list(zip(line.x, line.y, strict=True))
        for x, y in [*chosen[:-1:step], *chosen[-1:]]:
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            points.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
            pen = "L"
        colour, title = f"c{line.colour % COLOURS}", f"<title>{escape(line.name)}</title>"
        if len(points) == 1:  # a single point has no length
            left, top = points[0][1:].split()
            return f'<circle class="fill {colour}" cx="{left}" cy="{top}" r="3">{title}</circle>'
        kind = f"line {colour}{' dashed' if line.dashed else ''}"
        return f'<path class="{kind}" d="{"".join(points)}">{title}</path>'

    def mark(self, mark: Mark) -> str:
        at = self.x(min(max(mark.x, self.x_range[0]), self.x_range[1]))
        return (
            f'<line class="{mark.kind}" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" '
            f'y2="{HEIGHT - BOTTOM}"><title>{escape(mark.text)}</title></line>'
        )


def tick_step(low: float, high: float, about: int = 5) -> float:
    """Return the distance of ticks: 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)


def ticks(low: float, high: float, step: float) -> list[float]:
    """Return the multiples of `step` from `low` to `high`."""
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if axis.zero:
        low = min(low, 0.0)
    if high - low < 1e-12 * max(abs(high), 1.0):
        return low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    return low, high


def _svg(
    title: str,
    body: Sequence[str],
    width: float = WIDTH,
    height: float = HEIGHT,
    fixed: bool = False,
) -> str:
    style = f' style="max-width:{width:.0f}px"' if fixed else ""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img"{style}>'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )
