"""The digits as an image folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seresnext.config import DataConfig
from seresnext.data.demo import IMAGES, write_digits
from seresnext.data.sources import open_part, open_source, split_parts
from seresnext.errors import UserError
from seresnext.install import install_command


def test_is_scikit_learns_set(tmp_path: Path) -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    out = tmp_path / "data" / "digits"
    write_digits(out)
    train, val = split_parts(DataConfig(root=str(out)))
    assert val is not None
    sources = [open_part(train), open_part(val)]
    assert [len(s) for s in sources] == [1442, 355]
    seen = set()
    for source in sources:
        assert source.class_names == tuple("0123456789")
        for i in range(len(source)):
            name, label = source.describe(i), int(source.labels[i])
            number = int(Path(name).stem.removeprefix("digit-"))
            image = np.asarray(Image.open(name))
            assert np.array_equal(image, np.rint(digits.images[number] * 255 / 16))
            assert digits.target[number] == label
            seen.add(number)
    assert seen == set(range(IMAGES))
    shares = np.bincount(sources[1].labels) / np.bincount(digits.target)
    assert shares.min() > 0.19
    assert shares.max() <= 0.2
    assert [p.name for p in out.parent.iterdir()] == ["digits"]


def test_same_each_time_and_nothing_the_second(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    write_digits(tmp_path / "a")
    write_digits(tmp_path / "b")
    prints = [open_source(tmp_path / x / "train").fingerprint() for x in "ab"]
    assert prints[0] == prints[1]
    before = (tmp_path / "a").stat()
    write_digits(tmp_path / "a")
    assert (tmp_path / "a").stat() == before


def test_other_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for out in ("mine", "file"):
        with pytest.raises(UserError, match="is not the complete digits"):
            write_digits(tmp_path / out)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "x"


def test_interrupted_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    saves = iter(range(500))
    save = Image.Image.save

    def full_disk(self: Image.Image, *args: object, **options: object) -> None:
        if next(saves, None) is None:
            raise OSError(28, "No space left on device")
        save(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full_disk)
        with pytest.raises(UserError, match="No space left"):
            write_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "digits").mkdir()  # an empty folder is no obstacle
    write_digits(tmp_path / "digits")


def test_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=re.escape(install_command("demo"))):
        write_digits(tmp_path / "digits")
