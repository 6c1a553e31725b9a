"""Images in files, each with a label."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Sample, Source

MAX_FILE_BYTES = 1 << 30
"""Larger files are not read: images within `DataConfig.max_pixels` are smaller."""


class FileList(Source):
    """Files, each with a label.

    A path takes its length plus 8 bytes of memory: 47 MB for ImageNet's 1.28 million, where `Path`
    objects would take half a gigabyte.
    """

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
        self._paths = b"".join(paths)
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)
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
        """SHA-256 over the class names and each file's path, label and size.

        It changes when files are added, removed, renamed, moved to another class or changed in
        size. Bytes changed in place at the same size go unnoticed: finding them would mean reading
        every file.
        """
        if not self._fingerprint:
            digest = hashlib.sha256()
            for class_name in self.class_names:
                digest.update(b"%b\0" % class_name.encode())
            for index, label in enumerate(self.labels.tolist()):
                entry = self._path(index), label, self.size(index)
                digest.update(b"%b\0%d\0%d\0" % entry)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _path(self, index: int) -> bytes:
        """The path as it was given."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        start = self._ends[index - 1] if index else 0
        return self._paths[start : self._ends[index]]
