"""Images in files, each with a label."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Sample, Source, Texts, fingerprint

MAX_FILE_BYTES = 1 << 30
"""Larger files are not read: images within `DataConfig.max_pixels` are smaller."""


class FileList(Source):
    """Files, each with a label."""

    archives = None

    def __init__(
        self,
        root: str | Path,
        class_names: Sequence[str],
        paths: Sequence[bytes],
        labels: Sequence[int] | NDArray[np.integer[Any]],
    ) -> None:
        """`paths` are relative to `root` or absolute, encoded by `os.fsencode`."""
        assert len(paths) == len(labels)
        self._root = os.fspath(root)
        self.class_names = tuple(class_names)
        self.labels = np.asarray(labels, np.int32)
        self._paths = Texts(paths)
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        with open(self.describe(index), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise OSError(f"file of {size} bytes; at most {MAX_FILE_BYTES} are read")
            data = file.readall()
        return Sample(data, int(self.labels[index]))

    def describe(self, index: int) -> str:
        return os.path.join(self._root, self.name(index))

    def name(self, index: int) -> str:
        return os.fsdecode(self._path(index))

    def size(self, index: int) -> int:
        try:
            return os.stat(self.describe(index)).st_size
        except OSError:
            return -1

    def fingerprint(self) -> str:
        if not self._fingerprint:
            self._fingerprint = fingerprint(self)
        return self._fingerprint

    def _path(self, index: int) -> bytes:
        """The path as it was given."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._paths[index]
