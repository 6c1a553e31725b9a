"""The output of a run: lines or a progress bar, `metrics.jsonl`, TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from ..errors import printable
from ..files import append_json, replacing, to_json, writing

METRICS_FILE = "metrics.jsonl"
_PRINT_EVERY_SECONDS = 1.0
"""Plain lines come no faster than this, so that a log of fast steps stays readable."""
ADVICE = "checkpoints are untouched. Free some space and run the same command again"


class Reporter(Protocol):
    """Receives a run's events and shows them."""

    def message(self, text: str) -> None:
        """A sentence for people."""
        ...

    def started(self, step: int, total_steps: int, steps_per_epoch: float) -> None:
        """Training begins, `step` steps of a resumed run being done."""
        ...

    def metrics(self, record: dict[str, float]) -> None:
        """`step` and `epoch`, with `train/loss`, `train/top1`, `lr`, `images_per_second`,
        `data_wait` (share of the time spent waiting for data) and `remaining` (seconds), or with
        `val/top1`, `val/top5`, `val/loss`, `val/images`, `val/unread`.
        """
        ...

    def close(self) -> None: ...


def line(record: dict[str, float], total_steps: int) -> str:
    """Return one record as a line of text."""
    head = f"step {int(record['step'])}/{total_steps}  epoch {record['epoch']:.2f}"
    if "val/top1" in record:
        body = (
            f"validation: top-1 {record['val/top1']:.2%}, top-5 {record['val/top5']:.2%}, "
            f"loss {record['val/loss']:.4f}"
        )
        if record.get("val/unread"):
            body += f", {int(record['val/unread'])} images unreadable"
        return f"{head}  {body}"
    return (
        f"{head}  loss {record['train/loss']:.4f}  lr {record['lr']:.5f}  "
        f"{record['images_per_second']:.1f} images/s  waiting for data {record['data_wait']:.0%}  "
        f"{clock(record['remaining'])} left"
    )


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class LineReporter:
    """Plain lines, for pipes, files and batch systems."""

    def __init__(self, stream: Any = None) -> None:
        self.stream = stream  # None: what sys.stdout is at the time
        self.total_steps = 0
        self.printed = -_PRINT_EVERY_SECONDS

    def message(self, text: str) -> None:
        print(printable(text), file=self.stream, flush=True)

    def started(self, step: int, total_steps: int, steps_per_epoch: float) -> None:
        self.total_steps = total_steps

    def metrics(self, record: dict[str, float]) -> None:
        now = time.monotonic()
        last = int(record["step"]) == self.total_steps
        if "val/top1" in record or last or now - self.printed >= _PRINT_EVERY_SECONDS:
            self.printed = now
            self.message(line(record, self.total_steps))

    def close(self) -> None:
        pass


class BarReporter:
    """One line on a terminal that stays at the bottom; evaluations stay as lines above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.step = self.total_steps = 0
        self.record: dict[str, float] = {}
        self.since = time.monotonic()
        self.console = Console()
        self.live = Live(console=self.console, get_renderable=self._line, redirect_stderr=False)

    def message(self, text: str) -> None:
        self.console.print(printable(text), markup=False, highlight=False)

    def started(self, step: int, total_steps: int, steps_per_epoch: float) -> None:
        self.step, self.total_steps = step, total_steps
        self.live.start()

    def metrics(self, record: dict[str, float]) -> None:
        if "val/top1" in record:
            self.message(line(record, self.total_steps))
            return
        self.step, self.record, self.since = int(record["step"]), record, time.monotonic()

    def close(self) -> None:
        self.live.stop()

    def _line(self) -> Any:
        from rich.text import Text

        record = dict(self.record)
        if record:  # the time goes on between two records
            record["remaining"] = max(record["remaining"] - time.monotonic() + self.since, 0.0)
        marks = "━─" if self.console.encoding.startswith("utf") else "#-"
        text = bar_line(self.step, self.total_steps, record, self.console.width, marks)
        return Text(text, no_wrap=True, overflow="crop")


def bar_line(
    step: int, total_steps: int, record: dict[str, float], width: int, marks: str = "━─"
) -> str:
    """Return the progress line of at most `width` characters.

    Step, loss and time left are in it at any width from 40; what else fits follows, in the order of
    its use: a bar, waiting for data, speed, learning rate. `marks` are the bar's two characters.
    """
    head = f"step {step}/{total_steps}"
    if not record:
        return f"{head}  starting"
    loss, left = f"loss {record['train/loss']:.3f}", f"{clock(record['remaining'])} left"
    room = width - 1 - len("  ".join((head, loss, left)))
    shortest = 10
    wanted = (
        "bar",
        f"data wait {record['data_wait']:.0%}",
        f"{record['images_per_second']:.0f} images/s",
        f"lr {record['lr']:.4f}",
    )
    kept = []
    for part in wanted:
        room -= 2 + (shortest if part == "bar" else len(part))
        if room < 0:
            room += 2 + (shortest if part == "bar" else len(part))
            break
        kept.append(part)
    words = [head, loss, *reversed(kept[1:]), left]
    if kept:
        length = shortest + min(room, 30)
        done = round(length * step / max(total_steps, 1))
        words.insert(1, marks[0] * done + marks[1] * (length - done))
    return "  ".join(words)


def console_reporter() -> Reporter:
    """Return a bar for a terminal, lines for anything else."""
    return BarReporter() if sys.stdout.isatty() else LineReporter()


class MetricsFile:
    """`RUN/metrics.jsonl`, one JSON object a line, and TensorBoard events beside it.

    Raises UserError for what cannot be written.
    """

    def __init__(self, run: Path, start_step: int) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.run = run
        with writing(run, ADVICE):
            _drop_after(run / METRICS_FILE, start_step)
            self.events = EventFileWriter(str(run / "tensorboard"))

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Append one JSON object to a file of the run."""
        with writing(self.run / name, ADVICE):
            append_json(self.run / name, record)

    def write(self, record: dict[str, float]) -> None:
        """Append the record to both."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.append(METRICS_FILE, record)
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in record.items()
            if tag not in ("step", "remaining")
        ]
        event = Event(
            step=int(record["step"]), wall_time=time.time(), summary=Summary(value=values)
        )
        with writing(self.run / "tensorboard", ADVICE):
            self.events.add_event(event)

    def close(self) -> None:
        # A full disk has been reported by `write`; the last point of a curve needs no second error.
        with contextlib.suppress(OSError):
            self.events.close()


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Return the records of `RUN/metrics.jsonl`, without a line cut short by a crash.

    Null, as JSON has NaN, is NaN again.
    """
    records = []
    path = run / METRICS_FILE
    for text in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            record = json.loads(text)
            if isinstance(record, dict) and "step" in record:
                record.pop("not_finite", None)
                records.append({k: math.nan if v is None else v for k, v in record.items()})
    return records


def _drop_after(path: Path, step: int) -> None:
    """Remove what a killed run wrote after the checkpoint that it resumes from."""
    if path.exists():
        kept = [record for record in read_metrics(path.parent) if record["step"] <= step]
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{to_json(record)}\n" for record in kept))
