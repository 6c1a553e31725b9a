"""`seresnext data check`."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.archives import write_imagenet
from runs import TRAIN, VAL, refused, run_cli
from seresnext.data.sources import imagenet


def encoded(kind: str, mode: str = "RGB", seed: int = 0, **options: object) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (20, 30, len(mode)), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, kind, **options)
    return buffer.getvalue()


def test_sound_images(images: Path) -> None:
    done = run_cli("data", "check", images)
    assert f"{TRAIN} images in 3 classes of 13 to 13; 0 unreadable" in done.stdout
    assert f"{VAL} images in 3 classes of 4 to 5; 0 unreadable" in done.stdout
    assert "smallest 40 x 36" in done.stdout


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_what_is_found(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = io.BytesIO()
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(wide, "PNG")
    sound = encoded("JPEG")
    files = {
        "train/a/sound.jpg": sound,
        "train/a/twin.jpg": sound,
        "train/a/cmyk.jpg": encoded("JPEG", "CMYK"),
        "train/a/turned.jpg": encoded("JPEG", seed=1, exif=exif),
        "train/a/wide.png": wide.getvalue(),
        "train/b/named.JPEG": encoded("PNG", seed=2),
        "train/b/cut.jpg": sound[:300],
        "train/b/empty.png": b"",
        "train/b/Cat.png": encoded("PNG", seed=3),
        "train/b/cat.png": encoded("PNG", seed=4),
        "val/a/leak.png": encoded("PNG", seed=3),
        "val/b/own.png": encoded("PNG", seed=5),
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    done = run_cli("data", "check", tmp_path, "--json", code=1)
    report = json.loads(done.stdout)
    train = report["splits"]["train"]

    def at(*names: str) -> list[str]:
        return [str(tmp_path / name) for name in names]

    assert [bad["file"] for bad in train["unreadable"]] == at(
        "train/b/cut.jpg", "train/b/empty.png"
    )
    assert train["unreadable"][1]["reason"] == "empty file"
    assert train["oddities"] == {
        "cmyk": at("train/a/cmyk.jpg"),
        "sixteen_bit": at("train/a/wide.png"),
        "rotated": at("train/a/turned.jpg"),
        "wrong_ending": at("train/b/named.JPEG"),
    }
    assert train["classes"] == {"a": 5, "b": 5}
    assert train["names_alike"] == [["b/Cat.png", "b/cat.png"]]
    assert (train["smallest"]["width"], train["smallest"]["height"]) == (30, 20)
    assert report["duplicates"] == [at("train/a/sound.jpg", "train/a/twin.jpg")]
    assert report["duplicates_across"] == [at("train/b/Cat.png", "val/a/leak.png")]
    text = run_cli("data", "check", tmp_path, code=1).stdout
    for words in ("2 unreadable", "empty.png: empty file", "1 CMYK", "1 16 bits", "in several"):
        assert words in text


def test_official_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives, folders = write_imagenet(tmp_path)
    assert (
        "21 images in 3 classes of 7 to 7; 0 unreadable"
        in run_cli("data", "check", archives).stdout
    )
    done = run_cli("data", "check", archives, "--md5", code=1)
    assert f"{imagenet.TRAIN}: differs" in done.stdout
    for name in imagenet.MD5:
        digest = hashlib.md5((archives / name).read_bytes()).hexdigest()
        monkeypatch.setitem(imagenet.MD5, name, digest)
    assert json.loads(run_cli("data", "check", archives, "--md5", "--json").stdout) == {
        "md5": dict.fromkeys(imagenet.MD5, True)
    }
    assert "none of ImageNet's archives" in refused("data", "check", folders, "--md5")
