"""A run's folder: its layout, and the lock that keeps a second run out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from ..config import Config
from ..errors import UserError
from ..files import write_json
from .checkpoint import checkpoint_path


class RunFolder:
    """`--out`: config.json, metrics.jsonl, tensorboard/, checkpoints/, model/, logs/.

    While entered it is locked: a second run in the same folder is refused. Only rank 0 enters.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.config = self.path / "config.json"
        self.bad_images = self.path / "bad-images.jsonl"
        self._lock = FileLock(self.path / ".lock", timeout=0)

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"another run is using {self.path}; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}") from None
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def checkpoint(self, step: int) -> Path:
        return checkpoint_path(self.checkpoints, step)

    def write_config(self, config: Config) -> None:
        write_json(self.config, asdict(config))
