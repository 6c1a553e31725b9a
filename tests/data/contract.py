"""The contract of sources: one set of tests for all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seresnext.data.sources import Source


class SourceContract:
    """What every source promises. Subclasses build the same ten images twice over."""

    def source(self, folder: Path) -> Source:
        raise NotImplementedError

    def stored(self, description: str) -> bytes:
        """What is at the place that `describe` names."""
        return Path(description).read_bytes()

    def remove(self, source: Source, index: int) -> None:
        """Remove the file that holds an image."""
        Path(source.describe(index)).unlink()

    def test_reads_every_image_the_same_each_time(self, folder: Path) -> None:
        source = self.source(folder)
        assert len(source) == 10
        files = {path.read_bytes() for path in folder.glob("*/*")}
        assert {source[i].data for i in range(10)} == files
        for i in range(10):
            assert source[i] == source[i]

    def test_describes_where_an_image_is(self, folder: Path) -> None:
        source = self.source(folder)
        for i in range(10):
            assert self.stored(source.describe(i)) == source[i].data

    def test_many_threads_read_at_once(self, folder: Path) -> None:
        source = self.source(folder)
        expected = [source[i] for i in range(10)]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(source.__getitem__, list(range(10)) * 20)) == expected * 20

    def test_labels_mean_class_names(self, folder: Path) -> None:
        source = self.source(folder)
        for i in range(10):
            label = source[i].label
            known = label >= 0
            assert known == bool(source.class_names)
            assert not known or source.class_names[label] == Path(source.describe(i)).parts[-2]

    def test_labels_are_known_without_reading(self, folder: Path) -> None:
        source = self.source(folder)
        labels = [source[i].label for i in range(10)]
        for path in folder.glob("*/*"):
            path.unlink()
        assert source.labels.tolist() == labels
        assert source.labels.dtype == np.int32

    def test_index_out_of_range(self, folder: Path) -> None:
        source = self.source(folder)
        for index in (10, -1):
            with pytest.raises(IndexError):
                source[index]
            with pytest.raises(IndexError):
                source.describe(index)

    def test_descriptions_differ(self, folder: Path) -> None:
        source = self.source(folder)
        assert len({source.describe(i) for i in range(10)}) == 10

    def test_vanished_file_is_an_os_error(self, folder: Path) -> None:
        source = self.source(folder)
        self.remove(source, 3)
        with pytest.raises(OSError, match="No such file"):
            source[3]

    def test_names_and_sizes(self, folder: Path) -> None:
        source = self.source(folder)
        assert all(source.describe(i).endswith(source.name(i)) for i in range(10))
        assert [source.size(i) for i in range(10)] == [len(source[i].data) for i in range(10)]

    def test_fingerprint(self, folder: Path) -> None:
        before = self.source(folder).fingerprint()
        assert before == self.source(folder).fingerprint()
        assert len(bytes.fromhex(before)) == 32
        with (folder / "2" / "0.png").open("ab") as file:
            file.write(b"x")
        grown = self.source(folder).fingerprint()
        (folder / "2" / "0.png").rename(folder / "2" / "00.png")
        renamed = self.source(folder).fingerprint()
        (folder / "2" / "00.png").rename(folder / "10" / "00.png")
        moved = self.source(folder).fingerprint()
        (folder / "10" / "00.png").unlink()
        removed = self.source(folder).fingerprint()
        assert len({before, grown, renamed, moved, removed}) == 5
