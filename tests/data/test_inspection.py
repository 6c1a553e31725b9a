"""`seresnext data check`."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from data.archives import write_imagenet
from runs import TRAIN, VAL, refused, run_cli
from seresnext.data.near import BITS, Sketch, groups
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


def picture(seed: int) -> Image.Image:
    """A smooth picture of 240 x 180 pixels."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
    return coarse.resize((240, 180), Image.Resampling.BICUBIC)


class TestImagesThatLookAlike:
    @pytest.fixture
    def altered(self, tmp_path: Path) -> Path:
        """Ten pictures; some of them again, altered as people and programs do."""
        for seed in range(10):
            folder = tmp_path / "train" / "ab"[seed % 2]
            folder.mkdir(parents=True, exist_ok=True)
            picture(seed).save(folder / f"{seed}.png")
        (tmp_path / "val" / "a").mkdir(parents=True)
        (tmp_path / "val" / "b").mkdir(parents=True)
        picture(20).save(tmp_path / "val" / "b" / "own.png")
        picture(0).resize((80, 60)).save(tmp_path / "val" / "a" / "small.png")
        picture(2).save(tmp_path / "val" / "a" / "again.jpg", quality=40)
        ImageEnhance.Brightness(picture(4)).enhance(1.1).save(tmp_path / "val" / "a" / "bright.png")
        picture(6).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
            tmp_path / "val" / "a" / "mirror.png"
        )
        picture(8).resize((500, 375)).save(tmp_path / "train" / "a" / "larger.jpg")
        return tmp_path

    def test_they_are_found(self, altered: Path) -> None:
        report = json.loads(run_cli("data", "check", altered, "--json").stdout)
        assert report["duplicates"] == report["duplicates_across"] == []
        across = {tuple(Path(f).name for f in group) for group in report["near_across"]}
        assert across == {("0.png", "small.png"), ("2.png", "again.jpg"), ("4.png", "bright.png")}
        assert [[Path(f).name for f in g] for g in report["near"]] == [["8.png", "larger.jpg"]]
        text = run_cli("data", "check", altered).stdout
        assert "3 groups that look alike in several splits" in text

    def test_images_of_one_colour_are_not_alike(self, tmp_path: Path) -> None:
        for name, level in (("a/1", 10), ("a/2", 11), ("b/3", 200)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", (30, 30), (level,) * 3).save(tmp_path / f"{name}.png")
        assert json.loads(run_cli("data", "check", tmp_path, "--json").stdout)["near"] == []

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4), st.integers(0, 2**32))
    def test_no_pair_is_missed(self, centres: list[int], seed: int) -> None:
        """Against all pairs, for hashes around some centres."""
        rng = np.random.default_rng(seed)
        bits = []
        for centre in centres * 6:
            flipped = rng.choice(64, rng.integers(0, 5), replace=False).tolist()
            bits.append(centre ^ sum(1 << k for k in flipped))
        found = groups([Sketch(b, bytes(64)) for b in bits])
        linked = {frozenset((a, b)) for g in found for a in g for b in g if a < b}
        for a in range(len(bits)):
            for b in range(a + 1, len(bits)):
                if bits[a] and bits[b] and (bits[a] ^ bits[b]).bit_count() <= BITS:
                    assert frozenset((a, b)) in linked

    def test_the_page_shows_them(self, altered: Path, tmp_path: Path) -> None:
        hostile = altered / "train" / "a" / '<img src=x>"&\x1b[1m.png'
        picture(30).save(hostile)
        (altered / "train" / "b" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
        page = tmp_path / "found.html"
        run_cli("data", "check", altered, "--html", page, code=1)
        text = page.read_text()
        assert text.count("data:image/jpeg;base64,") == 2 * 4
        assert "<h2>Alike in several splits: 3</h2>" in text
        assert "Unreadable" in text
        assert "<img src=x>" not in text
        assert "\x1b" not in text
        assert "http" not in text.replace("http-equiv", "")
        beyond = altered / "val" / "a" / "small.png" / "x"
        done = run_cli("data", "check", altered, "--html", beyond, code=1)
        assert f"error: cannot write {beyond}" in done.stderr
