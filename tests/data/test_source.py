"""Sources: one contract for all, and the layout rules of image folders."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seresnext.config import DataConfig
from seresnext.data.sources import (
    Source,
    Subset,
    evaluation_path,
    image_files,
    image_list,
    open_evaluation,
    open_source,
    open_splits,
    split_paths,
)
from seresnext.data.sources.folder import image_folder
from seresnext.errors import UserError


class SourceContract:
    """What every source promises. Subclasses build the same ten images twice over."""

    def source(self, folder: Path) -> Source:
        raise NotImplementedError

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
            assert Path(source.describe(i)).read_bytes() == source[i].data

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
        for path in folder.glob("10/*"):
            path.unlink()
        index = next(i for i in range(10) if Path(source.describe(i)).parts[-2] == "10")
        with pytest.raises(OSError, match="No such file"):
            source[index]

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


class TestImageFolder(SourceContract):
    def source(self, folder: Path) -> Source:
        return open_source(folder)


class TestImageList(SourceContract):
    def source(self, folder: Path) -> Source:
        return image_list(image_files([folder]))


class TestSubset(SourceContract):
    def source(self, folder: Path) -> Source:
        whole = open_source(folder)
        return Subset(whole, range(len(whole))[::-1])

    def test_takes_the_given_images_in_the_given_order(self, folder: Path) -> None:
        whole = open_source(folder)
        part = Subset(whole, [7, 0, 9])
        assert [part[i] for i in range(3)] == [whole[7], whole[0], whole[9]]
        assert [part.describe(i) for i in range(3)] == [whole.describe(i) for i in (7, 0, 9)]
        assert part.labels.tolist() == [1, 0, 2]
        assert part.class_names == whole.class_names
        prints = {Subset(whole, i).fingerprint() for i in ([7, 0, 9], [0, 7, 9], [7, 0])}
        assert len(prints | {whole.fingerprint()}) == 4


def names(source: Source, folder: Path) -> list[str]:
    """Where the images are, relative to `folder`."""
    return [str(Path(source.describe(i)).relative_to(folder)) for i in range(len(source))]


class TestLayout:
    def test_classes_are_sorted_by_name_once(self, folder: Path) -> None:
        source = image_folder(folder)
        assert source.class_names == ("10", "2", "ant")
        assert names(source, folder)[:6] == [
            *("10/0.png", "10/1.JPG", "10/2.webp", "10/3.png", "10/4.JPG"),
            "2/0.png",
        ]
        assert source.labels.tolist() == [0] * 5 + [1] * 3 + [2] * 2

    def test_given_names_decide_the_labels(self, folder: Path) -> None:
        source = image_folder(folder, class_names=("ant", "bee", "2", "10"))
        assert source.class_names == ("ant", "bee", "2", "10")
        assert source.labels.tolist() == [0] * 2 + [2] * 3 + [3] * 5

    def test_unknown_class_is_refused(self, folder: Path) -> None:
        with pytest.raises(UserError, match=r"no known class: 2; the 2 known ones are 10, ant"):
            image_folder(folder, class_names=("10", "ant"))

    def test_class_names_enter_the_fingerprint(self, folder: Path) -> None:
        classes = ("10", "2", "ant")
        plain = image_folder(folder).fingerprint()
        assert plain == image_folder(folder, class_names=classes).fingerprint()
        assert plain != image_folder(folder, class_names=(*classes, "bee")).fingerprint()

    def test_golden_fingerprint(self, tmp_path: Path) -> None:
        """Of version 0.1.0, whose checkpoints hold it."""
        for name, data in (("b/2.png", b"22"), ("a/x/1.jpg", b"1"), ("a/0.webp", b"")):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        assert image_folder(tmp_path).fingerprint() == (
            "d28e9e25aa715f7e67409ae9f31c0ce39627586842c5fc2ba8a16ad493fde219"
        )

    def test_images_in_deeper_folders(self, folder: Path) -> None:
        deep = folder / "ant" / "a" / "b"
        deep.mkdir(parents=True)
        (folder / "2" / "0.png").rename(deep / "0.png")
        assert "ant/a/b/0.png" in names(image_folder(folder), folder)

    def test_hidden_and_other_files_are_passed_over(self, folder: Path) -> None:
        for name in (".DS_Store", "._0.jpg", "boxes.txt", "README"):
            (folder / "ant" / name).write_bytes(b"x")
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / ".ipynb_checkpoints" / "1.png").write_bytes(b"x")
        (folder / "list.csv").write_bytes(b"x")
        os.mkfifo(folder / "ant" / "pipe.png")  # opening it would wait for ever
        assert len(image_folder(folder)) == 10

    def test_images_in_formats_not_read_are_mentioned(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("a.gif", "b.GIF", "c.txt"):
            (folder / "ant" / name).write_bytes(b"x")
        image_folder(folder)
        assert ".gif (2)" in caplog.text
        assert ".txt" not in caplog.text

    def test_empty_class(self, folder: Path) -> None:
        (folder / "bee").mkdir()
        (folder / "bee" / "1.gif").write_bytes(b"x")
        with pytest.raises(UserError, match=r"no images in class bee .*\.gif \(1\).*allow-empty"):
            image_folder(folder)
        source = image_folder(folder, allow_empty_classes=True)
        assert source.class_names == ("10", "2", "ant", "bee")
        assert len(source) == 10

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"cannot read folder .*: No such file"):
            image_folder(tmp_path / "nowhere")

    def test_a_file_is_no_folder(self, folder: Path) -> None:
        with pytest.raises(UserError, match="Not a directory"):
            image_folder(folder / "2" / "0.png")

    def test_images_directly_in_the_root(self, folder: Path) -> None:
        with pytest.raises(UserError, match=r"3 images but no class folders; expected .*<class>"):
            image_folder(folder / "2")

    def test_no_images_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "cat").mkdir()
        with pytest.raises(UserError, match="no images in 1 class folders; expected"):
            image_folder(tmp_path, allow_empty_classes=True)

    def test_whole_splits_are_not_classes(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            (tmp_path / split / "cat").mkdir(parents=True)
        with pytest.raises(UserError, match="whole splits"):
            image_folder(tmp_path)

    def test_class_name_that_is_not_utf8(self, folder: Path) -> None:
        os.rename(folder / "ant", os.fsencode(folder) + b"/\xff")
        with pytest.raises(UserError, match=r"b'\\xff' is not UTF-8"):
            image_folder(folder)

    def test_file_name_that_is_not_utf8(self, folder: Path) -> None:
        os.rename(folder / "ant" / "0.png", os.fsencode(folder) + b"/ant/\xff.png")
        source = image_folder(folder)
        assert os.fsencode(source.describe(9)) == os.fsencode(folder) + b"/ant/\xff.png"
        assert source[9].label == 2

    def test_paths_are_kept_compactly(self, folder: Path) -> None:
        source = image_folder(folder)
        length = len("".join(names(source, folder)))
        assert len(source._paths) + source._ends.nbytes == length + 80


class TestLinks:
    def test_not_followed_by_default(
        self, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (folder / "ant" / "0.png").rename(outside / "0.png")
        (folder / "ant" / "out.png").symlink_to(outside / "0.png")
        (folder / "ant" / "outside").symlink_to(outside)
        (folder / "ant" / "loop").symlink_to(folder)
        (folder / "bee").symlink_to(outside)
        source = image_folder(folder)
        assert len(source) == 9
        assert source.class_names == ("10", "2", "ant")
        assert "links (4)" in caplog.text
        assert "--data.follow-links" in caplog.text

    def test_followed_on_request(self, folder: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (folder / "2" / "0.png").rename(outside / "0.png")
        (folder / "bee").symlink_to(outside)
        (folder / "ant" / "again.png").symlink_to(outside / "0.png")
        source = image_folder(folder, follow_links=True)
        assert source.class_names == ("10", "2", "ant", "bee")
        assert len(source) == 11

    @pytest.mark.parametrize("link", ["ant/loop", "loop"])
    def test_loops_are_refused(self, folder: Path, link: str) -> None:
        (folder / link).symlink_to(folder)
        with pytest.raises(UserError, match="is a link to a folder that it lies in"):
            image_folder(folder, follow_links=True)

    def test_broken_links_are_mentioned(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (folder / "ant" / "gone.png").symlink_to(folder / "nowhere.png")
        assert len(image_folder(folder, follow_links=True)) == 10
        assert "broken links (1)" in caplog.text

    def test_only_links(self, folder: Path, tmp_path: Path) -> None:
        farm = tmp_path / "farm" / "cat"
        farm.mkdir(parents=True)
        (farm / "0.png").symlink_to(folder / "2" / "0.png")
        with pytest.raises(UserError, match=r"links \(1\); --data.follow-links follows links"):
            image_folder(farm.parent)


class TestSplits:
    @pytest.mark.parametrize("name", ["val", "validation", "test"])
    def test_below_one_folder(self, tmp_path: Path, name: str) -> None:
        for split in ("train", name):
            (tmp_path / split).mkdir()
        data = DataConfig(root=str(tmp_path))
        assert split_paths(data) == (tmp_path / "train", tmp_path / name)
        assert evaluation_path(tmp_path) == tmp_path / name

    def test_val_before_test(self, tmp_path: Path) -> None:
        for split in ("train", "test", "val"):
            (tmp_path / split).mkdir()
        assert split_paths(DataConfig(root=str(tmp_path)))[1] == tmp_path / "val"

    def test_without_validation(self, tmp_path: Path) -> None:
        (tmp_path / "train").mkdir()
        assert split_paths(DataConfig(root=str(tmp_path))) == (tmp_path / "train", None)
        assert evaluation_path(tmp_path / "train") == tmp_path / "train"

    def test_explicit_folders_win(self, tmp_path: Path) -> None:
        for name in ("train", "val", "a", "b"):
            (tmp_path / name).mkdir()
        a, b = tmp_path / "a", tmp_path / "b"
        assert split_paths(DataConfig(train=str(a), val=str(b))) == (a, b)
        assert split_paths(DataConfig(root=str(tmp_path), train=str(a))) == (a, tmp_path / "val")
        assert split_paths(DataConfig(train=str(a))) == (a, None)

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="give --data DIR"):
            split_paths(DataConfig())
        with pytest.raises(UserError, match=r"no training folder .*train; expected .*<class>"):
            split_paths(DataConfig(root=str(tmp_path)))
        with pytest.raises(UserError, match="no validation folder"):
            split_paths(DataConfig(train=str(tmp_path), val=str(tmp_path / "nowhere")))

    def test_validation_labels_follow_the_training_classes(self, folder: Path) -> None:
        val = folder.parent / "held-out"
        (val / "ant").mkdir(parents=True)
        (folder / "ant" / "0.png").rename(val / "ant" / "0.png")
        train, held_out = open_splits(DataConfig(train=str(folder), val=str(val)))
        assert len(train) == 9
        assert held_out is not None
        assert held_out.class_names == train.class_names == ("10", "2", "ant")
        assert held_out.labels.tolist() == [2]
        assert open_splits(DataConfig(train=str(folder)))[1] is None

    def test_evaluation_follows_the_models_classes(self, folder: Path) -> None:
        root = folder.parent / "root"
        root.mkdir()
        folder.rename(root / "val")
        source = open_evaluation(root, ("ant", "bee", "2", "10"))
        assert source.labels.tolist() == [0] * 2 + [2] * 3 + [3] * 5
        with pytest.raises(UserError, match="no known class: 2"):
            open_evaluation(root / "val", ("10", "ant"))


class TestImageFiles:
    def test_files_and_folders(self, folder: Path) -> None:
        odd = folder / "photo.dat"
        odd.write_bytes(b"x")
        files = image_files([odd, folder / "ant", folder / "2" / "0.png"])
        names = ["photo.dat", "ant/0.png", "ant/1.JPG", "2/0.png"]
        assert files == [folder / name for name in names]

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no such file or folder: .*gone\.jpg"):
            image_files([tmp_path / "gone.jpg"])

    def test_folder_without_images(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_bytes(b"x")
        with pytest.raises(UserError, match=r"no images \[passed over: .txt \(1\)\]; looked for"):
            image_files([tmp_path])
