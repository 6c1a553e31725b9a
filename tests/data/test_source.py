"""Sources: one contract for all, and the layout rules of image folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from data.contract import SourceContract
from seresnext.config import DataConfig
from seresnext.data.sources import (
    Part,
    Source,
    Subset,
    evaluation_part,
    evaluation_path,
    image_files,
    image_list,
    open_evaluation,
    open_part,
    open_source,
    open_splits,
    refuse_inside,
    split_parts,
)
from seresnext.data.sources.folder import image_folder
from seresnext.errors import UserError


class TestImageFolder(SourceContract):
    def source(self, folder: Path) -> Source:
        return open_source(folder)

    def test_a_vanished_file_has_no_size(self, folder: Path) -> None:
        source = self.source(folder)
        self.remove(source, 3)
        assert source.size(3) == -1


class TestTable(SourceContract):
    def source(self, folder: Path) -> Source:
        path = folder.parent / "list.csv"
        if not path.exists():
            files = sorted(folder.glob("*/*"))
            lines = [f"{f.relative_to(folder.parent)},{f.parts[-2]}" for f in files]
            path.write_text("\n".join(lines))
        return open_source(path)

    def test_fingerprint(self, folder: Path) -> None:
        """The list decides what the images are, their sizes are the files'."""
        before = self.source(folder).fingerprint()
        assert before == self.source(folder).fingerprint()
        with (folder / "2" / "0.png").open("ab") as file:
            file.write(b"x")
        grown = self.source(folder).fingerprint()
        (folder / "2" / "0.png").unlink()
        assert len({before, grown, self.source(folder).fingerprint()}) == 3


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

    def test_hidden_and_other_files_are_passed_over(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in (".DS_Store", "._0.jpg", "boxes.txt", "README"):
            (folder / "ant" / name).write_bytes(b"x")
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / ".ipynb_checkpoints" / "1.png").write_bytes(b"x")
        (folder / "list.csv").write_bytes(b"x")
        os.mkfifo(folder / "ant" / "pipe.png")  # opening it would wait for ever
        (folder / "__MACOSX" / "ant").mkdir(parents=True)
        (folder / "__MACOSX" / "ant" / "0.png").write_bytes(b"x")
        assert len(image_folder(folder)) == 10
        assert ".csv (1), .txt (1), no ending (1), special files (1)" in caplog.text

    def test_images_in_formats_not_read_are_mentioned(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("a.psd", "b.PSD", "c.txt"):
            (folder / "ant" / name).write_bytes(b"x")
        image_folder(folder)
        assert ".psd (2)" in caplog.text
        assert ".txt (1)" in caplog.text

    def test_empty_class(self, folder: Path) -> None:
        (folder / "bee").mkdir()
        (folder / "bee" / "1.psd").write_bytes(b"x")
        with pytest.raises(UserError, match=r"no images in class bee .*\.psd \(1\).*allow-empty"):
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
        assert len(source._paths.block) + source._paths.ends.nbytes == length + 80


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
        assert "--follow-links" in caplog.text

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
        with pytest.raises(UserError, match=r"links \(1\); --follow-links follows links"):
            image_folder(farm.parent)


def make(root: Path, *images: str) -> Path:
    """Write files below `root`, each with other bytes."""
    for number, name in enumerate(images):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    return root


class TestSplits:
    @pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
    def test_below_one_folder(self, tmp_path: Path, name: str) -> None:
        make(tmp_path, "train/a/0.png", f"{name}/a/0.png")
        data = DataConfig(root=str(tmp_path))
        assert split_parts(data) == (Part(tmp_path / "train"), Part(tmp_path / name))
        assert evaluation_path(tmp_path) == tmp_path / name

    def test_the_first_of_several(self, tmp_path: Path) -> None:
        make(tmp_path, *(f"{name}/a/0.png" for name in ("train", "test", "valid", "val")))
        assert split_parts(DataConfig(root=str(tmp_path)))[1] == Part(tmp_path / "val")

    def test_without_validation(self, tmp_path: Path) -> None:
        make(tmp_path, "train/a/0.png")
        assert split_parts(DataConfig(root=str(tmp_path))) == (Part(tmp_path / "train"), None)
        assert evaluation_path(tmp_path / "train") == tmp_path / "train"

    def test_explicit_folders_win(self, tmp_path: Path) -> None:
        make(tmp_path, *(f"{name}/x/0.png" for name in ("train", "val", "a", "b")))
        a, b = tmp_path / "a", tmp_path / "b"
        root = str(tmp_path)
        assert split_parts(DataConfig(train=str(a), val=str(b))) == (Part(a), Part(b))
        both = split_parts(DataConfig(root=root, train=str(a)))
        assert both == (Part(a), Part(tmp_path / "val"))
        assert split_parts(DataConfig(train=str(a))) == (Part(a), None)

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="give --data DIR"):
            split_parts(DataConfig())
        with pytest.raises(UserError, match=r"no training images: expected .*train/<class>"):
            split_parts(DataConfig(root=str(tmp_path / "gone")))
        with pytest.raises(UserError, match="no validation images at"):
            split_parts(DataConfig(train=str(tmp_path), val=str(tmp_path / "nowhere")))
        make(tmp_path, "train/0.png", "val/0.png")  # images, but no classes
        with pytest.raises(UserError, match="every image in the folder of its class"):
            split_parts(DataConfig(root=str(tmp_path)))

    def test_a_class_may_be_named_like_a_split(self, tmp_path: Path) -> None:
        root = make(tmp_path / "a", "train/0.png", "train/1.png", "plane/0.png", "plane/1.png")
        train, val = open_splits(DataConfig(root=str(root)))
        assert train.class_names == ("plane", "train")
        assert val is not None
        assert evaluation_part(root) == Part(root)
        inside = make(tmp_path / "b", "train/test/0.png", "train/val/0.png", "val/test/0.png")
        train, _ = open_splits(DataConfig(root=str(inside)))
        assert train.class_names == ("test", "val")

    def test_single_class_is_refused(self, tmp_path: Path) -> None:
        make(tmp_path, "cat/0.png", "cat/1.png")
        with pytest.raises(UserError, match=r"one class only \(cat\)"):
            open_splits(DataConfig(root=str(tmp_path)))

    @pytest.mark.parametrize("out", ["", "runs/a", "train/run"])
    def test_run_folder_inside_the_images(self, tmp_path: Path, out: str) -> None:
        make(tmp_path, "train/a/0.png", "train/b/0.png")
        with pytest.raises(UserError, match="lies inside the data folder"):
            refuse_inside(tmp_path / out, DataConfig(root=str(tmp_path)))
        refuse_inside(tmp_path.parent / "runs", DataConfig(root=str(tmp_path)))

    def test_rarer_classes_are_repeated(self, tmp_path: Path) -> None:
        make(tmp_path, *(f"train/a/{k}.png" for k in range(5)), "train/b/0.png", "train/b/1.png")
        train, _ = open_splits(DataConfig(root=str(tmp_path), balance=True))
        assert np.bincount(train.labels).tolist() == [5, 5]
        assert {train.name(index) for index in range(5, 10)} == {"b/0.png", "b/1.png"}


class TestShare:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        names = [
            f"{c}/{k}.jpg" for c, n in (("cat", 20), ("dog", 10), ("eel", 2)) for k in range(n)
        ]
        return make(tmp_path / "photos", *names, "fox/0.jpg")

    def test_is_stratified_and_disjoint(self, root: Path) -> None:
        train, val = open_splits(DataConfig(root=str(root)))
        assert val is not None
        assert np.bincount(train.labels, minlength=4).tolist() == [16, 8, 1, 1]
        assert np.bincount(val.labels, minlength=4).tolist() == [4, 2, 1, 0]
        assert not set(names(train, root)) & set(names(val, root))

    def test_depends_on_the_names_alone(self, root: Path, tmp_path: Path) -> None:
        data = DataConfig(root=str(root))

        def held_out(data: DataConfig) -> set[str]:
            val = open_splits(data)[1]
            assert val is not None
            return set(names(val, Path(data.root)))

        before = held_out(data)
        assert before == held_out(DataConfig(root=str(root.rename(tmp_path / "moved"))))
        moved = tmp_path / "moved"
        assert before != held_out(DataConfig(root=str(moved), val_seed=1))
        make(moved, "cat/new.jpg")
        assert len(before ^ held_out(DataConfig(root=str(moved)))) <= 2

    def test_evaluation_takes_what_the_run_held_out(self, root: Path) -> None:
        data = DataConfig(root=str(root), val_share=0.2)
        held_out = evaluation_part(root, data)
        assert held_out == split_parts(data)[1]
        assert len(open_part(held_out)) == 7
        assert evaluation_part(root, DataConfig(root=str(root), val_share=0)) == Part(root)
        assert evaluation_part(root, DataConfig(root=str(root.parent), val_share=0.2)) == Part(root)

    def test_not_beside_validation_images(self, tmp_path: Path) -> None:
        make(tmp_path, "train/a/0.png", "val/a/0.png")
        with pytest.raises(UserError, match=r"--val-share 0.1: .*val holds validation images"):
            split_parts(DataConfig(root=str(tmp_path), val_share=0.1))

    def test_of_a_training_folder(self, root: Path) -> None:
        train, val = split_parts(DataConfig(train=str(root), val_share=0.5))
        assert str(train) == f"{root} (50% of each class)"
        assert str(val) == f"{root} (50% of each class, held out by --val-share)"


class TestTables:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.csv", "10/0.png,ten\nant/1.JPG,ant\n"),
            ("a.csv", "\ufefffile,class\r\n10/0.png,ten\r\nant/1.JPG,ant\r\n"),
            ("a.csv", "label;id;image\nten;1;10/0.png\nant;2;ant/1.JPG\n"),
            ("a.tsv", "path\tlabel\n10/0.png\tten\n\nant/1.JPG\tant\n"),
        ],
    )
    def test_forms(self, folder: Path, name: str, text: str) -> None:
        path = folder / name
        path.write_text(text, encoding="utf-8")
        source = open_source(path)
        assert source.class_names == ("ant", "ten")
        assert [source[i].label for i in range(2)] == [1, 0]
        assert source[0].data == (folder / "10" / "0.png").read_bytes()

    def test_splits(self, folder: Path) -> None:
        path = folder / "list.csv"
        path.write_text("10/0.png,ten,train\n2/0.png,two,train\n2/1.JPG,two,valid\n")
        train, val = open_splits(DataConfig(root=str(path)))
        assert val is not None
        assert names(train, folder) == ["10/0.png", "2/0.png"]
        assert names(val, folder) == ["2/1.JPG"]
        assert train.class_names == val.class_names
        assert str(evaluation_part(path)) == f"{path} (split valid)"
        assert len(open_evaluation(path)) == 1

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("a.png,x\nb.png\n", "line 2: expected 2 columns, got 1"),
            ("a.png\n", "line 1: expected path, label and optionally split, got 1"),
            ("a.png,x\nb.png,\n", "line 2: expected a path and a label"),
            ("a.png,x\na.png,y\n", "line 2: a.png has two labels"),
            ("a.png,x,training\n", "line 1: split: expected one of train"),
            ("a.png,caf\xe9\n", "line 1: 'utf-8' codec"),
            ("", "no images"),
            ("path,label\n", "no images"),
        ],
    )
    def test_refusals(self, tmp_path: Path, text: str, problem: str) -> None:
        path = tmp_path / "list.csv"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=problem):
            open_source(path)


class TestClassNames:
    COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"

    def test_unicode_forms_are_one_name(self, tmp_path: Path) -> None:
        make(tmp_path, f"{self.DECOMPOSED}/0.png", "tea/0.png")
        source = open_source(tmp_path, class_names=("tea", self.COMPOSED))
        assert source.labels.tolist() == [0, 1]

    def test_two_forms_side_by_side(self, tmp_path: Path) -> None:
        make(tmp_path, f"{self.DECOMPOSED}/0.png", f"{self.COMPOSED}/0.png")
        with pytest.raises(UserError, match=r"the same text in two Unicode forms") as caught:
            open_source(tmp_path)
        assert r"'caf\xe9'" in str(caught.value)

    def test_spelling_is_explained(self, tmp_path: Path) -> None:
        make(tmp_path, "Cat/0.png")
        with pytest.raises(UserError, match=r"Cat is spelt cat there"):
            open_source(tmp_path, class_names=("cat", "dog"))


class TestLabels:
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

    def test_what_is_passed_over_is_said(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (folder / "ant" / "new.jxl").write_bytes(b"x")
        (folder / "ant" / "IMG_1.HEIC").write_bytes(b"x")
        assert len(image_files([folder])) == 11
        assert ".jxl (1); .jxl is JPEG XL, which is not read: convert it to JPEG" in caplog.text

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no such file or folder: .*gone\.jpg"):
            image_files([tmp_path / "gone.jpg"])

    def test_folder_without_images(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_bytes(b"x")
        with pytest.raises(UserError, match=r"no images \[passed over: .txt \(1\)\]; looked for"):
            image_files([tmp_path])
