"""Shards behind an address: a real HTTP server that fails in every way, and the cache."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs the extra remote")

from data.archives import tar
from data.contract import SourceContract
from runs import refused, run_cli, train_arguments
from seresnext.config import DataConfig
from seresnext.data.sources import open_source, open_splits, remote, store
from seresnext.data.sources.remote import local, make_room, shown
from seresnext.errors import UserError


class Server:
    """Serves a folder on this machine, and fails as told."""

    def __init__(self, folder: Path) -> None:
        self.requests: Counter[str] = Counter()
        self.sent = 0
        """MiB of endless answers."""
        self.lists = True
        """Whether it shows what a folder holds."""
        self.faults: dict[str, list[str]] = {}
        """Path -> what happens next: "500", "cut", "short", "endless", "hang up"."""
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __init__(self, *args: object) -> None:
                super().__init__(*args, directory=str(folder))

            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                outer.requests[name] += 1
                fault = outer.faults[name].pop(0) if outer.faults.get(name) else ""
                path = Path(self.translate_path(self.path))
                if fault == "500":
                    self.send_error(500)
                elif fault == "endless":
                    self.send_response(200)
                    self.end_headers()
                    with contextlib.suppress(OSError):
                        while True:
                            self.wfile.write(bytes(1 << 20))
                            outer.sent += 1
                    self.close_connection = True
                elif fault == "hang up":
                    self.close_connection = True
                elif fault:
                    data = path.read_bytes()
                    half = data[: len(data) // 2]
                    self.send_response(200)
                    length = len(data) if fault == "cut" else len(half)
                    self.send_header("Content-Length", str(length))
                    self.end_headers()
                    self.wfile.write(half)
                    self.close_connection = True
                else:
                    super().do_GET()

            def list_directory(self, path: object) -> object:
                if outer.lists:
                    return super().list_directory(path)  # type: ignore[arg-type]
                self.send_error(403)
                return None

            def log_message(self, *args: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no pauses."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "_PAUSE", 0.01)
    return tmp_path / "cache" / "seresnext" / "shards"


@pytest.fixture
def shards(images: Path, tmp_path: Path) -> Path:
    """The test images as shards, several of each split."""
    run_cli("data", "pack", images, "--out", tmp_path / "shards", "--shard-size", "20kB")
    assert len(list((tmp_path / "shards" / "train").glob("*.tar"))) > 3
    return tmp_path / "shards"


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    servers: list[Server] = []

    def start(folder: Path) -> Server:
        servers.append(Server(folder))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def pixels(data: DataConfig) -> list[tuple[str, int, bytes]]:
    source, val = open_splits(data)
    assert val is not None
    return [(s.name(i), s[i].label, s[i].data) for s in (source, val) for i in range(len(s))]


class TestHttp(SourceContract):
    @pytest.fixture(autouse=True)
    def server(self, serve: Callable[[Path], Server], tmp_path: Path) -> None:
        (tmp_path / "served").mkdir()
        self.served = tmp_path / "served"
        self.address = serve(self.served).url

    def source(self, folder: Path) -> object:
        files = [(str(p.relative_to(folder)), p.read_bytes()) for p in sorted(folder.glob("*/*"))]
        for number, part in enumerate((files[:6], files[6:])):
            (self.served / f"{number}.tar").write_bytes(tar(part))
        shutil.rmtree(remote._cache(), ignore_errors=True)  # an address is looked at once
        return open_source(local(self.address))

    def stored(self, description: str) -> bytes:
        import tarfile

        assert description.startswith(f"{self.address}/")
        archive, _, name = description[len(self.address) + 1 :].partition("/")
        with tarfile.open(self.served / archive) as opened:
            member = opened.extractfile(name)
            assert member is not None
            return member.read()

    def test_vanished_file_is_an_os_error(self, folder: Path) -> None:
        """What cannot be fetched is no unreadable image, which might be left out."""
        source = self.source(folder)
        for path in [*self.served.glob("*.tar"), *local(self.address).glob("*.tar")]:
            path.unlink()
        with pytest.raises(UserError, match="cannot read http"):
            source[3]


def test_the_images_are_those_of_the_folder(
    serve: Callable[[Path], Server], shards: Path, cache: Path
) -> None:
    server = serve(shards)
    expected = pixels(DataConfig(root=str(shards)))
    assert pixels(DataConfig(root=server.url)) == expected
    assert open_splits(DataConfig(root=server.url))[0].fingerprint() == (
        open_splits(DataConfig(root=str(shards)))[0].fingerprint()
    )
    before = server.requests.total()
    assert pixels(DataConfig(root=f"{server.url}/")) == expected
    assert server.requests.total() == before, "all is in the cache"
    assert {n for n, times in server.requests.items() if times > 1 and n.endswith("tar")} == set()
    assert shown(local(server.url) / "train") == f"{server.url}/train"


def test_an_index_beside_the_shards_saves_reading_them(
    serve: Callable[[Path], Server], shards: Path
) -> None:
    open_splits(DataConfig(root=str(shards)))  # writes the index
    server = serve(shards)
    train, _ = open_splits(DataConfig(root=server.url))
    assert len(train) == 39
    assert not any(name.endswith(".tar") for name in server.requests)
    assert train[0].data
    names = [n for n in server.requests if n.startswith("train/0")]
    assert names, "fetched when it is read"


@pytest.mark.parametrize("fault", ["500", "cut", "short", "hang up"])
def test_faults_that_pass(serve: Callable[[Path], Server], shards: Path, fault: str) -> None:
    expected = pixels(DataConfig(root=str(shards)))
    server = serve(shards)
    for path in shards.rglob("*.tar"):
        server.faults[str(path.relative_to(shards))] = [fault, fault]
    assert pixels(DataConfig(root=server.url)) == expected


@pytest.mark.parametrize("fault", ["500", "cut", "short"])
def test_faults_that_stay(
    serve: Callable[[Path], Server], shards: Path, fault: str, tmp_path: Path, cache: Path
) -> None:
    open_splits(DataConfig(root=str(shards)))
    server = serve(shards)
    for path in (shards / "train").glob("*.tar"):
        server.faults[f"train/{path.name}"] = [fault] * 100
    line = refused(*train_arguments(server.url, tmp_path / "run", 2, 4, "--on-bad-image", "skip"))
    assert f"cannot read {server.url}/train/" in line
    assert "4 attempts" in line
    assert not list(cache.glob("*/train/*.tar")), "nothing incomplete is kept"


def test_what_is_no_address_of_shards(serve: Callable[[Path], Server], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    server = serve(tmp_path / "empty")
    given = ("train", "--recipe", "demo", "--data")
    assert "no tar shards there" in refused(*given, server.url)
    assert "no tar shards there" in refused("data", "check", server.url)
    assert "no tar shards there" in refused(*given, f"{server.url}/nothing")
    line = refused(*given, "http://me:secret@127.0.0.1:1/x")
    assert "contains a name or password" in line
    assert "secret" not in line
    assert "name the recipe" in refused("train", "--data", server.url)
    assert "nosuch" in refused(*given, "nosuch://bucket/x").lower()


def test_a_server_that_lists_nothing(serve: Callable[[Path], Server], shards: Path) -> None:
    """The indexes in train/ and val/ are enough; 403 is the usual answer to a listing."""
    expected = pixels(DataConfig(root=str(shards)))
    server = serve(shards)
    server.lists = False
    assert pixels(DataConfig(root=server.url)) == expected


def test_an_index_that_fails_once_is_read(serve: Callable[[Path], Server], shards: Path) -> None:
    open_splits(DataConfig(root=str(shards)))
    server = serve(shards)
    for end in ("json", "npz"):
        server.faults[f"train/seresnext-index.{end}"] = ["500"]
    open_splits(DataConfig(root=server.url))
    assert not any(name.endswith(".tar") for name in server.requests), "read, and not made anew"


def test_an_endless_answer_is_cut(
    serve: Callable[[Path], Server], shards: Path, cache: Path
) -> None:
    open_splits(DataConfig(root=str(shards)))
    server = serve(shards)
    train, _ = open_splits(DataConfig(root=server.url))
    for path in (shards / "train").glob("*.tar"):
        server.faults[f"train/{path.name}"] = ["endless"] * 9
    with pytest.raises(UserError, match=r"more than \d+ bytes"):
        train[0]
    assert server.sent < 200
    assert sum(path.stat().st_size for path in cache.rglob("*")) < 1e6


def test_names_with_and_without_a_split(serve: Callable[[Path], Server], shards: Path) -> None:
    """Refused as in a folder: the shards without would be left out."""
    for path in (shards / "val").glob("*"):
        path.unlink()
    (shards / "val").rmdir()
    for path in sorted((shards / "train").glob("*.tar"))[:2]:
        path.rename(path.with_name(f"train-{path.name}"))
    for path in (shards / "train").glob("seresnext-index.*"):
        path.unlink()
    (shards / "train").rename(shards / "mixed")
    line = refused("data", "check", f"{serve(shards).url}/mixed")
    assert "the names of some shards contain their split" in line


@pytest.mark.parametrize(
    "change",
    [
        {"archives": ["../../evil.tar"]},
        {"archives": ["000001.tar"]},
        {"archives": ["classes.txt"]},
        {"archives": ["\ud800.tar"]},
        {"bytes": [2**70]},
        {"bytes": [2**60]},
        {"bytes": [-1]},
    ],
    ids=str,
)
def test_a_hostile_index(
    serve: Callable[[Path], Server], shards: Path, cache: Path, change: dict[str, list[object]]
) -> None:
    """One line, no file outside its folder, and nothing of others is removed from the cache."""
    open_splits(DataConfig(root=str(shards)))
    file = shards / "train" / "seresnext-index.json"
    header = json.loads(file.read_text())
    for name, values in change.items():
        header[name] = [*values, *header[name][len(values) :]]
    file.write_text(json.dumps(header))
    (cache / "other").mkdir(parents=True)
    (cache / "other" / "9.tar").write_bytes(b"of another data set")
    server = serve(shards)
    error = run_cli("data", "check", server.url, code=1).stderr.splitlines()[-1]
    assert error.startswith(f"seresnext: error: {server.url}/train")
    assert (cache / "other" / "9.tar").exists()
    assert not list(cache.parent.rglob("evil*"))


@pytest.mark.parametrize("wrong", ["cut", "[1]"])
def test_a_damaged_index(serve: Callable[[Path], Server], shards: Path, wrong: str) -> None:
    open_splits(DataConfig(root=str(shards)))
    file = shards / "train" / "seresnext-index.json"
    file.write_text(file.read_text()[:40] if wrong == "cut" else wrong)
    error = run_cli("data", "check", serve(shards).url, code=1).stderr.splitlines()[-1]
    assert "index" in error


@pytest.mark.parametrize("user", ["me:secret", "me:p@secret", "me:a/secret"])
def test_a_password_is_not_shown(user: str) -> None:
    for scheme in ("https", "s3"):
        line = refused("train", "--recipe", "demo", "--data", f"{scheme}://{user}@host/x")
        assert "contains a name or password" in line
        assert "secret" not in line


def test_a_run_goes_on_from_an_empty_cache(
    serve: Callable[[Path], Server], shards: Path, images: Path, tmp_path: Path, cache: Path
) -> None:
    """To the bit, and as from the folder that was packed."""
    server = serve(shards)
    steady = ("--schedule.kind", "constant", "--schedule.warmup", "0 steps")
    run_cli(*train_arguments(server.url, tmp_path / "whole", 8, 4, *steady))
    run_cli(*train_arguments(server.url, tmp_path / "half", 4, 4, *steady))
    shutil.rmtree(cache)
    run_cli(*train_arguments(server.url, tmp_path / "half", 8, 4, *steady))
    run_cli(*train_arguments(shards, tmp_path / "folder", 8, 4, *steady))
    weights = [
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("whole", "half", "folder")
    ]
    assert weights[0] == weights[1] == weights[2]
    run_cli("evaluate", tmp_path / "whole", "--data", server.url)
    run_cli("export", tmp_path / "whole", "--out", tmp_path / "m.onnx", "--data", server.url)


def test_processes_fetch_each_shard_once(
    serve: Callable[[Path], Server], shards: Path, cache: Path
) -> None:
    open_splits(DataConfig(root=str(shards)))
    server = serve(shards)
    code = (
        "import sys; from seresnext.config import DataConfig; "
        "from seresnext.data.sources import open_splits; "
        "s, _ = open_splits(DataConfig(root=sys.argv[1])); [s[i] for i in range(len(s))]"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, server.url]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    fetched = {n: times for n, times in server.requests.items() if n.startswith("train/0")}
    assert len(fetched) > 3
    assert set(fetched.values()) == {1}


def test_the_cache_is_bounded(
    serve: Callable[[Path], Server],
    shards: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_splits(DataConfig(root=str(shards)))
    server, largest = serve(shards), max(p.stat().st_size for p in shards.rglob("*.tar"))
    monkeypatch.setenv("SERESNEXT_CACHE_GB", str(2 * largest / 1e9))
    expected = pixels(DataConfig(root=str(shards)))
    assert pixels(DataConfig(root=server.url)) == expected
    assert sum(p.stat().st_size for p in cache.rglob("*.tar")) <= 2 * largest
    said = run_cli("data", "check", server.url).stderr
    assert "will be fetched again and again; raise SERESNEXT_CACHE_GB" in said
    monkeypatch.setenv("SERESNEXT_CACHE_GB", "much")
    shutil.rmtree(cache)
    line = run_cli("data", "check", server.url, code=1).stderr
    assert "error: SERESNEXT_CACHE_GB: expected a number of GB above 0, got 'much'" in line


def test_the_least_recently_used_goes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, age in (("a", 30), ("b", 10), ("c", 20)):
        (cache / name).mkdir(parents=True)
        (cache / name / "0.tar").write_bytes(bytes(1000))
        os.utime(cache / name / "0.tar", (10**9 - age, 10**9 - age))
    monkeypatch.setenv("SERESNEXT_CACHE_GB", str(2000 / 1e9))
    make_room(1000)
    assert {p.parent.name for p in cache.rglob("*.tar")} == {"b"}


def test_a_store_of_another_kind(shards: Path, images: Path) -> None:
    """Through fsspec's memory file system, which lists as object stores do."""
    import fsspec

    system = fsspec.filesystem("memory")
    for path in shards.rglob("*.tar"):
        system.pipe_file(f"/bucket/{path.relative_to(shards)}", path.read_bytes())
    assert pixels(DataConfig(root="memory://bucket")) == pixels(DataConfig(root=str(shards)))
    assert np.array_equal(
        open_splits(DataConfig(root=f"file://{images}"))[0].labels,
        open_splits(DataConfig(root=str(images)))[0].labels,
    )


def test_what_a_killed_process_left_is_not_trusted(
    serve: Callable[[Path], Server], shards: Path, cache: Path
) -> None:
    """A part of a shard under its temporary name, and a shard that another program cut short."""
    open_splits(DataConfig(root=str(shards)))
    server = serve(shards)
    expected = pixels(DataConfig(root=str(shards)))
    folder = local(server.url) / "train"
    (folder / ".000000.tar.99999.part").write_bytes(b"half")
    (folder / "000001.tar").write_bytes(b"half")
    assert pixels(DataConfig(root=server.url)) == expected
    assert not list(cache.rglob("*.part"))
