"""A run's folder: its layout, and the lock that keeps a second run out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ..config import Config
from ..files import write_json, writing
from .checkpoint import checkpoint_path
from .lock import FolderLock


class RunFolder:
    """`--out`: config.json, metrics.jsonl, tensorboard/, checkpoints/, model/, logs/.

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

    def write_config(self, config: Config) -> None:
        write_json(self.config, asdict(config))
