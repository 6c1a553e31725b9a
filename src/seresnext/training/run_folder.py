"""A run's folder: its layout, and the lock that keeps a second run out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ..config import Config, to_saved
from ..files import append_json, write_json, writing
from .checkpoint import checkpoint_path
from .lock import FolderLock

EVENTS_FILE = "events.jsonl"


class RunFolder:
    """`--out`: config.json, events.jsonl, metrics.jsonl, tensorboard/, checkpoints/, model/, logs/.

    While entered it is locked: a second run in the same folder is refused. Only rank 0 enters.
    """

    def __init__(self, path: str | Path, say: Callable[[str], None]) -> None:
        """`say` shows a sentence to the user."""
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.config = self.path / "config.json"
        self.bad_images = self.path / "bad-images.jsonl"
        self._lock = FolderLock(self.path, say)

    def __enter__(self) -> RunFolder:
        with writing(f"to {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__(*exception)

    def checkpoint(self, step: int) -> Path:
        return checkpoint_path(self.checkpoints, step)

    def record(self, event: Literal["started", "resumed", "stopped"], step: int) -> None:
        """Append to `events.jsonl` what happened after `step` steps, for the report."""
        with writing(self.path / EVENTS_FILE):
            append_json(
                self.path / EVENTS_FILE, {"event": event, "step": step, "time": time.time()}
            )

    def write_config(self, config: Config) -> None:
        write_json(self.config, to_saved(config))
