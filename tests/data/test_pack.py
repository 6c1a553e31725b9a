"""`seresnext data pack`: shards of any source, read by us and by the webdataset package."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from runs import TRAIN, VAL, refused, run_cli
from seresnext.config import DataConfig
from seresnext.data.sources import open_source, open_splits


def everything(root: Path) -> list[object]:
    """Fingerprint and images of both splits."""
    parts = open_splits(DataConfig(root=str(root)))
    return [(s.fingerprint(), [s[i] for i in range(len(s))]) for s in parts if s is not None]


def test_shards_stand_for_the_folder(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    done = run_cli("data", "pack", images, "--out", out, "--shard-size", "40kB")
    assert f"{TRAIN} images in" in done.stdout
    assert "fingerprint" not in done.stdout
    assert len(list(out.glob("train/*.tar"))) > 1
    assert everything(out) == everything(images)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it leaves its files open
def test_the_webdataset_package_reads_them(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    run_cli("data", "pack", images, "--out", out)
    shards = [str(path) for path in sorted(out.glob("val/*.tar"))]
    read = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8")
    found = list(read.to_tuple("jpg;png", "cls"))
    source = open_source(images / "val")
    assert len(found) == VAL
    assert [label for _, label in found] == source.labels.tolist()
    first = np.asarray(Image.open(io.BytesIO(source[0].data)).convert("RGB"))
    assert (found[0][0] == first).all()


def test_an_interrupted_pack_goes_on(images: Path, tmp_path: Path) -> None:
    out, arguments = tmp_path / "shards", ("--shard-size", "40kB")
    run_cli("data", "pack", images, "--out", out, *arguments)
    expected = {path: path.read_bytes() for path in out.glob("*/*.tar")}
    kept, lost = sorted(out.glob("train/*.tar"))[:2]
    kept_at = kept.stat().st_mtime_ns
    lost.unlink()
    half = out / "train" / ".000001.tar.1"
    half.write_bytes(b"half")
    run_cli("data", "pack", images, "--out", out, *arguments)
    assert {path: path.read_bytes() for path in out.glob("*/*.tar")} == expected
    assert kept.stat().st_mtime_ns == kept_at
    assert not half.exists()
    message = refused("data", "pack", images, "--out", out, "--shard-size", "50kB")
    assert "holds shards of other images or options" in message


def test_shrinking(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, width in (("large", 120), ("small", 40)):
        for split in ("a", "b"):
            path = tmp_path / "in" / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (30, width, 3), np.uint8)).save(path)
    (tmp_path / "in" / "a" / "bad.png").write_bytes(b"x")
    out = tmp_path / "out"
    done = run_cli("data", "pack", tmp_path / "in", "--out", out, "--max-side", 60)
    assert "2 shrunk now" in done.stdout
    assert "the fingerprint is another one" in done.stdout
    assert done.stderr.count("unreadable, copied as it is") == 1
    source = open_source(out)
    by_name = {source.name(i): source[i].data for i in range(5)}
    assert by_name["a/small.png"] == (tmp_path / "in" / "a" / "small.png").read_bytes()
    shrunk = Image.open(io.BytesIO(by_name["a/large.jpg"]))
    assert (shrunk.format, shrunk.size) == ("JPEG", (60, 15))


def test_names_that_the_layout_does_not_have(folder: Path, tmp_path: Path) -> None:
    data = (folder / "2" / "0.png").read_bytes()
    for name in ("a.b.png", "a.b.jpg", "a_b.png"):
        (folder / "2" / name).write_bytes(data)
    run_cli("data", "pack", folder, "--out", tmp_path / "out")
    source = open_source(tmp_path / "out")
    names = [source.name(i) for i in range(len(source))]
    assert len(source) == len(set(names)) == 13
    assert [n for n in names if "a_b" in n] == ["2/a_b.jpg", "2/a_b-2.png", "2/a_b-3.png"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--quality", 80), "--quality needs --max-side"),
        (("--max-side", 60, "--quality", 0), "expected 1 to 100"),
        (("--max-side", 1), "expected 32 or more"),
        (("--shard-size", "7"), "expected a size such as 512MB"),
    ],
)
def test_usage(images: Path, tmp_path: Path, arguments: tuple[object, ...], problem: str) -> None:
    done = run_cli("data", "pack", images, "--out", tmp_path / "out", *arguments, code=2)
    assert problem in done.stderr


def test_not_into_a_folder_with_something_else(images: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "notes").write_bytes(b"x")
    assert "is not empty" in refused("data", "pack", images, "--out", tmp_path)
    assert "inside the data folder" in refused("data", "pack", images, "--out", images / "out")
