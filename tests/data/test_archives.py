"""Sources in tar archives: shards, ImageNet as downloaded, hostile and damaged archives."""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import webdataset

from data.archives import PHOTOS, WNIDS, meta, tar, write_imagenet
from data.contract import SourceContract
from runs import RECORDING, digest, finish, refused, run_cli, start, train_arguments
from seresnext.config import DataConfig
from seresnext.data.sources import Source, imagenet, open_evaluation, open_source, open_splits
from seresnext.data.sources.index import FILE
from seresnext.data.sources.mat import read_structs
from seresnext.data.sources.tar import members
from seresnext.errors import UserError


def tarred(folder: Path, shards: Path, count: int = 2) -> Path:
    """Write the files of a folder as `count` archives."""
    shards.mkdir(exist_ok=True)
    files = sorted(folder.glob("*/*"))
    for shard in range(count):
        part = files[shard * len(files) // count : (shard + 1) * len(files) // count]
        data = tar((str(path.relative_to(folder)), path.read_bytes()) for path in part)
        (shards / f"{shard:06}.tar").write_bytes(data)
    return shards


class TestShards(SourceContract):
    def source(self, folder: Path) -> Source:
        return open_source(tarred(folder, folder.parent / "shards"))

    def stored(self, description: str) -> bytes:
        archive, _, name = description.partition(".tar/")
        with tarfile.open(f"{archive}.tar") as file:
            return file.extractfile(name).read()

    def remove(self, source: Source, index: int) -> None:
        Path(source.describe(index).partition(".tar/")[0] + ".tar").unlink()

    def test_the_fingerprint_is_that_of_the_folder(self, folder: Path) -> None:
        shards, images = self.source(folder), open_source(folder)
        assert shards.fingerprint() == images.fingerprint()
        assert [shards[i] for i in range(10)] == [images[i] for i in range(10)]


class TestIndex:
    @pytest.fixture
    def shards(self, folder: Path) -> Path:
        return tarred(folder, folder.parent / "shards")

    def test_is_made_once(self, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
        open_source(shards)
        assert "indexing" in capsys.readouterr().err
        open_source(shards)
        assert capsys.readouterr().err == ""

    def test_is_made_by_one_of_several(
        self, shards: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with ThreadPoolExecutor(4) as pool:
            sources = list(pool.map(open_source, [shards] * 4))
        assert {source.fingerprint() for source in sources} == {sources[0].fingerprint()}
        assert capsys.readouterr().err.count("indexing") == 1

    def test_is_made_anew_for_other_archives(self, shards: Path) -> None:
        open_source(shards)
        (shards / "000001.tar").unlink()
        assert len(open_source(shards)) == 5

    @pytest.mark.parametrize(
        "change", ["offset", "length", "label", "ends", "object", "cut", "json"]
    )
    def test_a_hostile_index_is_not_used(self, shards: Path, change: str) -> None:
        expected = open_source(shards)
        path, header = shards / f"{FILE}.npz", shards / f"{FILE}.json"
        with np.load(path) as stored:
            arrays = dict(stored)
        if change in arrays:
            arrays[change] = arrays[change] + 2**30
        if change == "object":
            arrays["label"] = np.array([print] * 10, object)
        np.savez(path, **arrays)
        if change == "cut":
            path.write_bytes(path.read_bytes()[:-100])
        fields = json.loads(header.read_text())
        fields["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        header.write_text("{" if change == "json" else json.dumps(fields))
        again = open_source(shards)
        assert [again[i] for i in range(10)] == [expected[i] for i in range(10)]

    def test_in_the_cache_where_the_folder_cannot_be_written(
        self, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("os.access", lambda path, mode: False)
        open_source(shards)
        assert not list(shards.glob(f"{FILE}*"))
        assert len(list((tmp_path / "cache").glob(f"seresnext/*/{FILE}.npz"))) == 1

    def test_changed_bytes_are_found(self, shards: Path) -> None:
        source = open_source(shards)
        archive = shards / "000000.tar"
        data = bytearray(archive.read_bytes())
        data[600] ^= 1
        archive.write_bytes(data)
        with pytest.raises(OSError, match="CRC-32"):
            source[0]


class TestWebDataset:
    def test_its_shards_are_read(self, folder: Path, tmp_path: Path) -> None:
        files = sorted(folder.glob("*/*.png"))
        shards = tmp_path / "shards"
        shards.mkdir()
        for split in ("train", "val"):
            with webdataset.TarWriter(str(shards / f"digits-{split}-0000.tar")) as writer:
                for number, path in enumerate(files):
                    sample = {"png": path.read_bytes(), "cls": number % 3, "json": {"a": 1}}
                    writer.write({"__key__": f"{number:04}", **sample, "seg.png": b"mask"})
        (shards / "classes.txt").write_text("ant\nbee\ncat\n")
        train, val = open_splits(DataConfig(root=str(shards)))
        assert val is not None
        assert train.class_names == val.class_names == ("ant", "bee", "cat")
        assert train.labels.tolist() == [number % 3 for number in range(len(files))]
        assert train.name(0) == "0000.png"
        (shards / "classes.txt").unlink()
        with pytest.raises(UserError, match=r"labels are numbers; .*classes\.txt"):
            open_evaluation(shards, ("ant", "bee", "cat"))
        assert open_source(shards).class_names == ("0", "1", "2")

    @pytest.mark.parametrize(
        ("files", "problem"),
        [
            ({"a.jpg": b"x"}, "a.jpg has no label: expected a.cls"),
            ({"a.jpg": b"x", "a.cls": b"\xff"}, "a.cls holds no label"),
            ({"a.jpg": b"x", "a.cls": b"1", "b.jpg": b"x", "b.cls": b"cat"}, "some labels are num"),
            ({"a.jpg": b"x", "a.cls": b"99999999"}, "expected class numbers from 0 to"),
            ({"a.jpg": b"x", "a.cls": b"1"}, "no images of class 0"),
            ({"a.txt": b"x"}, "no images in its 1 archives"),
        ],
    )
    def test_refusals(self, tmp_path: Path, files: dict[str, bytes], problem: str) -> None:
        (tmp_path / "0.tar").write_bytes(tar(files.items()))
        with pytest.raises(UserError, match=problem):
            open_source(tmp_path)


def listed(data: bytes) -> tuple[list[str], Counter[str]]:
    skipped: Counter[str] = Counter()
    read = lambda count, offset: data[offset : offset + count]  # noqa: E731
    return [m.name for m in members(read, 0, len(data), "a.tar", skipped)], skipped


class TestHostileTars:
    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_every_format(self, form: int) -> None:
        names = ["a/b.jpg", f"{'d' * 90}/{'e' * 90}.jpg", "./c.jpg"]
        if form != tarfile.USTAR_FORMAT:
            names += ["é.jpg", f"{'long' * 200}.jpg"]
        found, _ = listed(tar(((name, b"x" * 700) for name in names), form))
        assert found == [name.removeprefix("./") for name in names]

    @pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", "x" * 5000])
    def test_names_that_lead_out_are_refused(self, name: str) -> None:
        with pytest.raises(UserError, match="a member is called"):
            listed(tar([(name, b"x")]))

    def test_links_and_devices_are_passed_over(self) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for number, kind in enumerate(b"123456"):
                member = tarfile.TarInfo(f"{number}.jpg")
                member.type, member.linkname = bytes([kind]), "/etc/passwd"
                archive.addfile(member)
        found, skipped = listed(buffer.getvalue())
        assert found == []
        assert skipped == {"links": 2, "devices": 2, "pipes": 1}

    def test_sizes_that_lie(self) -> None:
        data = bytearray(tar([("a.jpg", b"x")]))
        for size in (b"77777777777\0", b"\x80" + b"\x7f" * 11):
            data[124:136] = size
            data[148:156] = b" " * 8
            data[148:156] = b"%06o\0 " % sum(data[:512])
            with pytest.raises(UserError, match="would end beyond the archive"):
                listed(bytes(data))

    def test_damage(self) -> None:
        data = tar([("a.jpg", b"x" * 2000), ("b.jpg", b"x")])
        with pytest.raises(UserError, match="cut short"):
            listed(data[:1000])
        with pytest.raises(UserError, match="without an end mark"):
            listed(data[: 512 + 2048])
        with pytest.raises(UserError, match="expected the header"):
            listed(b"\1" * 512 + data)

    def test_many_tiny_members_take_no_memory(self) -> None:
        one = tar([("a.txt", b"")])[:512]

        def read(count: int, offset: int) -> bytes:
            return one if offset < 512 * 20_000 else bytes(count)

        found = members(read, 0, 512 * 20_001, "a.tar", Counter())
        assert sum(1 for _ in found) == 20_000


class TestImageNet:
    @pytest.fixture(scope="class")
    def both(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
        return write_imagenet(tmp_path_factory.mktemp("imagenet"))

    def test_is_the_folders_that_people_make_of_it(self, both: tuple[Path, Path]) -> None:
        archives, _ = both
        ours, theirs = (open_splits(DataConfig(root=str(root))) for root in both)
        assert ours[0].class_names == WNIDS
        assert len(ours[0]) == 3 * PHOTOS
        for a, b in zip(ours, theirs, strict=True):
            assert a is not None
            assert b is not None
            assert a.fingerprint() == b.fingerprint()
            assert [a[i] for i in range(len(a))] == [b[i] for i in range(len(b))]
        assert ours[0].describe(0).startswith(f"{archives}/{imagenet.TRAIN}/n01440764/")

    def test_validation_needs_the_devkit(self, both: tuple[Path, Path], tmp_path: Path) -> None:
        (tmp_path / imagenet.VAL).write_bytes((both[0] / imagenet.VAL).read_bytes())
        with pytest.raises(UserError, match=r"the labels of .* are in ILSVRC2012_devkit"):
            open_source(tmp_path)
        (tmp_path / imagenet.DEVKIT).write_bytes(b"no gzip")
        with pytest.raises(UserError, match=r"cannot read .*download it again"):
            open_source(tmp_path)

    @pytest.mark.slow
    def test_a_killed_run_resumes_to_the_bit(self, both: tuple[Path, Path], tmp_path: Path) -> None:
        """The folders' run, undisturbed, gives the same weights."""
        archives, folders = both
        run_cli(*train_arguments(folders, tmp_path / "whole", 10, 4))
        often = ("--run.save-every", "2 steps")
        arguments = train_arguments(archives, tmp_path / "run", 10, 4, *often)
        killed = [sys.executable, RECORDING, str(tmp_path), "7:SIGKILL", *arguments]
        assert finish(start(killed), timeout=120).returncode == -9
        done = run_cli(*arguments)
        # The checkpoint of step 4 is on disk when that of step 6 begins, which may be cut short.
        assert re.search(r"resuming after step [46]\b", done.stdout)
        assert digest(tmp_path / "run") == digest(tmp_path / "whole")

    def test_no_images_for_training(self, both: tuple[Path, Path], tmp_path: Path) -> None:
        for name in (imagenet.VAL, imagenet.DEVKIT):
            (tmp_path / name).write_bytes((both[0] / name).read_bytes())
        message = refused("train", "--recipe", "demo", "--data", tmp_path)
        assert "no training images" in message


class TestMat:
    @pytest.mark.parametrize("compressed", [True, False])
    def test_structs(self, compressed: bool) -> None:
        rows = read_structs(meta(compressed), "synsets")
        assert [(row["ILSVRC2012_ID"], row["WNID"]) for row in rows[:3]] == list(
            zip((3, 1, 2), WNIDS, strict=True)
        )
        assert rows[0]["words"] == "tench, Tinca tinca"

    def test_damage_is_a_value_error(self) -> None:
        data = meta(False)
        for at in range(0, len(data), 37):
            for change in (data[:at], data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :]):
                try:
                    rows = read_structs(change, "synsets")
                except ValueError:
                    continue
                assert len(rows) <= len(data)


def test_large_archives_need_the_name_of_a_recipe(tmp_path: Path) -> None:
    with (tmp_path / imagenet.TRAIN).open("wb") as file:
        file.truncate(6 << 30)  # sparse
    message = refused("train", "--data", tmp_path)
    assert "name the recipe: --recipe imagenet" in message
