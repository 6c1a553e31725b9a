"""MindSpore's checkpoint format: its files are read, ours are read by it, hostile ones refused."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seresnext.errors import UserError
from seresnext.weights import ckpt
from seresnext.weights.ckpt import list_ckpt, write_ckpt

ARRAYS = {
    "kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "half": np.array([1.5, -2], np.float16),
    "double": np.array([[0.1]], np.float64),
    "step": np.array(77, np.int64),
    "flags": np.array([True, False]),
    "bytes": np.arange(200, dtype=np.uint8),
    "größe": np.array([1, -1], np.int32),
}


@pytest.fixture(scope="module")
def mindspore() -> Any:
    return pytest.importorskip("mindspore", reason="the reference reader and writer")


def read_ckpt(path: Path) -> dict[str, np.ndarray]:
    return {name: stored.read() for name, stored in list_ckpt(path).items()}


def save(mindspore: Any, path: Path, arrays: dict[str, Any], **options: Any) -> dict[str, Any]:
    listed = [{"name": n, "data": mindspore.Tensor(a)} for n, a in arrays.items()]
    mindspore.save_checkpoint(listed, str(path), **options)
    return read_ckpt(path)


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert np.array_equal(found[name], array), name


# MindSpore's files -----------------------------------------------------------------------------


def test_reads_what_mindspore_writes(mindspore: Any, tmp_path: Path) -> None:
    extra = {"epoch_num": 3, "lr": 0.5, "on": True, "note": "häuschen", "empty": ""}
    found = save(mindspore, tmp_path / "a.ckpt", ARRAYS, append_dict=extra)
    expected = ARRAYS | {
        "epoch_num": np.array(3),
        "lr": np.array(0.5, np.float32),
        "on": np.array(True),
        "note": np.array("häuschen"),
        "empty": np.array(""),
    }
    assert_equal(found, expected)
    found["kernel"][0] = 0  # arrays are the caller's


def test_reads_bfloat16(mindspore: Any, tmp_path: Path) -> None:
    tensor = mindspore.Tensor([1.0, -0.3, 1e30], mindspore.bfloat16)
    found = save(mindspore, tmp_path / "a.ckpt", {"x": tensor})["x"]
    assert found.dtype == np.float32
    assert np.array_equal(found, tensor.astype(mindspore.float32).asnumpy())


def test_reads_a_tensor_in_slices(
    mindspore: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"a": np.arange(3000, dtype=np.float32).reshape(1000, 3), "b": ARRAYS["kernel"]}
    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", 1)  # KiB, 512 MiB else
    found = save(mindspore, tmp_path / "a.ckpt", arrays)
    assert (tmp_path / "a.ckpt").read_bytes().count(b"\x0a\x01a") == 12
    assert_equal(found, arrays)


def test_the_crc_is_checked(mindspore: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    assert_equal(save(mindspore, path, ARRAYS, crc_check=True), ARRAYS)
    data = bytearray(path.read_bytes())
    data[data.index(ARRAYS["kernel"].tobytes()) + 5] ^= 1
    (tmp_path / "b.ckpt").write_bytes(data)
    with pytest.raises(UserError, match="its CRC-32 does not match"):
        read_ckpt(tmp_path / "b.ckpt")


def test_reads_a_scalar_as_older_versions_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(entry(b"lr", [0], b"Float32", np.float32(0.25).tobytes()))
    assert_equal(read_ckpt(path), {"lr": np.array(0.25, np.float32)})


# our files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("slice_bytes", [512 << 20, 40])
def test_mindspore_reads_what_is_written(
    mindspore: Any, slice_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ckpt, "SLICE_BYTES", slice_bytes)
    path = tmp_path / "new" / "a.ckpt"
    write_ckpt(path, ARRAYS)
    theirs = mindspore.load_checkpoint(str(path))
    assert_equal({n: p.asnumpy() for n, p in theirs.items()}, ARRAYS)
    assert_equal(read_ckpt(path), ARRAYS)
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_ckpt(path, {"x": np.zeros(4, np.float32)})
    code = (
        "import numpy as np, resource, signal, sys\n"
        "from pathlib import Path\n"
        "from seresnext.weights.ckpt import write_ckpt\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_ckpt(Path(sys.argv[1]), {'x': np.ones(1000, np.float32)})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert f"UserError: cannot write {path}: File too large" in done.stderr
    assert not read_ckpt(path)["x"].any()
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


# hostile files ---------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(tag: bytes, dims: list[int], kind: bytes, content: bytes) -> bytes:
    tensor = b"".join(field(1, d) for d in dims) + field(2, kind) + field(3, content)
    return field(1, field(1, tag) + field(2, tensor))


ONE = np.ones(1, np.float32).tobytes()
GOOD = entry(b"x", [1], b"Float32", ONE)
HOSTILE = {
    "empty": (b"", "cannot mmap an empty file"),
    "no entries": (b"crc_num" + zlib.crc32(b"").to_bytes(10, "big"), "it has no entries"),
    "huge entry": (b"\x0a" + varint(37 << 30) + b"x" * 38, "claims 39728447488 bytes where 38 are"),
    "huge dims": (entry(b"x", [1 << 40, 1 << 40], b"Float32", ONE), "holds 4 bytes"),
    "dims that wrap": (entry(b"x", [1 << 32, 1 << 32], b"Int8", b""), "holds 0 bytes"),
    "zero times huge": (entry(b"x", [0, 1 << 62], b"Int8", b""), "holds 0 bytes"),
    "negative dim": (entry(b"x", [(1 << 64) - 1], b"Float32", ONE), "number is out of range"),
    "endless varint": (b"\x0a" + b"\xff" * 20, "number is out of range"),
    "cut varint": (b"\x0a\x80", "ends inside a number"),
    "many dims": (entry(b"x", [1] * 9, b"Float32", ONE), "more than 8 dimensions"),
    "many packed dims": (
        field(1, field(1, b"x") + field(2, field(1, b"\1" * 9) + field(2, b"Int8"))),
        "more than 8 dimensions",
    ),
    "too little": (entry(b"x", [2], b"Float32", ONE), "holds 4 bytes"),
    "too much": (entry(b"x", [1], b"Float16", ONE), "holds 4 bytes"),
    "unknown type": (entry(b"x", [1], b"Int4", ONE), "unknown type 'Int4'"),
    "long name": (entry(b"x" * 1025, [1], b"Float32", ONE), "name is longer"),
    "broken name": (entry(b"\xff", [1], b"Float32", ONE), "not UTF-8"),
    "twice": (GOOD + entry(b"y", [1], b"Float32", ONE) + GOOD, "'x' comes twice"),
    "twice, as if sliced": (GOOD + GOOD, "holds 8 bytes"),
    "map tensor": (field(1, field(1, b"x") + field(3, b"")), "map tensor"),
    "no tensor": (field(1, field(1, b"x")), "no name or no tensor"),
    "no content": (field(1, field(1, b"x") + field(2, field(2, b"Int8"))), "no content"),
    "unknown field": (field(2, b"x"), "unknown field 2 at the top"),
    "a number at the top": (field(1, 5), "unknown field 1 at the top"),
    "unknown wire type": (b"\x0b", "unknown wire type 3"),
    "text file": (b"\nhello, world of text files", "bytes where"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    content, message = HOSTILE[name]
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message):
            read_ckpt(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_packed_dims_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    tensor = field(1, varint(1) + varint(2)) + field(2, b"Int8") + field(3, b"ab")
    path.write_bytes(field(1, field(1, b"x") + field(2, tensor)))
    assert_equal(read_ckpt(path), {"x": np.array([[97, 98]], np.int8)})


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ckpt, "MAX_ENTRIES", 3)
    entries = [entry(b"%d" % n, [1], b"Float32", ONE) for n in range(4)]
    (tmp_path / "a.ckpt").write_bytes(b"".join(entries[:3]))
    assert len(read_ckpt(tmp_path / "a.ckpt")) == 3
    (tmp_path / "a.ckpt").write_bytes(b"".join(entries))
    with pytest.raises(UserError, match="more than 3 entries"):
        read_ckpt(tmp_path / "a.ckpt")


def test_44_bytes_take_no_memory(tmp_path: Path) -> None:
    """A length and a shape that promise 37 GB, read under a limit of 100 MB above the start."""
    tensor = field(1, 37 << 28) + field(2, b"Float32") + b"\x1a" + varint(37 << 30)
    value = field(1, b"layer0.0.weight") + b"\x12" + varint(len(tensor)) + tensor
    hostile = b"\x0a" + varint(len(value)) + value
    hostile += b"\0" * (44 - len(hostile))
    assert len(hostile) == 44
    (tmp_path / "a.ckpt").write_bytes(hostile)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from seresnext.weights.ckpt import list_ckpt\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)\n"
        "list_ckpt(Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.ckpt"], capture_output=True, text=True
    )
    assert "UserError" in done.stderr
    assert "claims 39728447488 bytes where" in done.stderr


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.ckpt"):
        with pytest.raises(UserError, match="cannot read checkpoint"):
            read_ckpt(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """(a place to write to, a small checkpoint with every feature of the format)."""
    path = tmp_path_factory.mktemp("fuzz") / "a.ckpt"
    write_ckpt(
        path, {name: array[..., :2] if array.ndim else array for name, array in ARRAYS.items()}
    )
    data = path.read_bytes() + entry(b"note", [0], b"str", "ab".encode("utf-32-le"))
    return path, data + b"crc_num" + zlib.crc32(data).to_bytes(10, "big")


def reads_or_refuses(path: Path, data: bytes) -> bool:
    """Any other exception fails the test."""
    path.write_bytes(data)
    try:
        read_ckpt(path)
    except UserError:
        return False
    return True


def test_truncation_anywhere_is_refused_or_leaves_whole_entries(whole: tuple[Path, bytes]) -> None:
    path, data = whole
    assert reads_or_refuses(path, data)
    readable = [cut for cut in range(len(data)) if reads_or_refuses(path, data[:cut])]
    # A checkpoint without its CRC is a checkpoint, and so are its first entries alone.
    assert len(data) - 17 in readable
    assert len(readable) == len(ARRAYS) + 1


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_flipped_bits_never_crash(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = whole
    damaged = bytearray(content[: data.draw(st.sampled_from([len(content), len(content) - 17]))])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    reads_or_refuses(path, bytes(damaged))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=80))
def test_random_bytes_never_crash(whole: tuple[Path, bytes], data: bytes) -> None:
    reads_or_refuses(whole[0], b"\x0a" + data)
