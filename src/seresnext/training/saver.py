"""Checkpoint writing off the training thread, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from .checkpoint import Checkpoint, clean, save_checkpoint


class Saver:
    """Writes checkpoints of one run in the background.

    The caller hands over a copy of the state and trains on. A second save waits for the first;
    a failure is raised by the next `save` or `wait`.
    """

    def __init__(
        self, folder: Path, keep: int, on_saved: Callable[[Checkpoint], None] | None = None
    ) -> None:
        """`keep` checkpoints stay, and the best one. `on_saved` is called by the thread."""
        self.folder, self.keep, self.on_saved = folder, keep, on_saved
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        self.wait()
        self._thread = threading.Thread(
            target=self._write, args=(checkpoint, best_step), name="checkpoint-saver"
        )
        self._thread.start()

    def _write(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        try:
            save_checkpoint(self.folder, checkpoint)
            clean(self.folder, self.keep, best_step)
            if self.on_saved:
                self.on_saved(checkpoint)
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Until the last checkpoint is on disk. Raises what its writing raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
