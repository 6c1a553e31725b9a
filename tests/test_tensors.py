"""Tensors in files: what comes back, and headers that lie."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from seresnext.errors import UserError
from seresnext.tensors import list_safetensors


def written(path: Path, header: Any, content: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def entry(shape: Any = (1,), dtype: Any = "F32", offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_every_type_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        t: rng.integers(0, 2, (2, 3)).astype(t)
        for t in "bool u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8".split()
    }
    arrays |= {"scalar": np.array(1.5, np.float32), "nothing": np.zeros((0, 3), np.float32)}
    save_file(arrays, tmp_path / "a", {"format": "pt"})
    found, metadata = list_safetensors(tmp_path / "a")
    assert metadata == {"format": "pt"}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name].read(), array)
    numbers = torch.tensor([1.5, -3e38, torch.inf]).bfloat16()
    save_torch_file({"x": numbers}, tmp_path / "b")
    assert list_safetensors(tmp_path / "b")[0]["x"].read().tolist() == numbers.tolist()


@pytest.mark.parametrize("metadata", [None, {}, {"a": None, "b": [1]}, "text", [1], 5])
def test_metadata_of_any_kind_is_no_obstacle(metadata: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "a", {"__metadata__": metadata, "x": entry()}, b"\0\0\x80?")
    tensors, found = list_safetensors(path)
    assert tensors["x"].read() == [1]
    assert found == (metadata if isinstance(metadata, dict) else {})


HOSTILE: dict[str, tuple[Any, bytes]] = {
    "40 dimensions": ({"x": entry([1] * 40)}, b"abcd"),
    "100,000 dimensions": ({"x": entry([1] * 100_000)}, b"abcd"),
    "huge and empty": ({"x": entry([1 << 62, 0], offsets=(0, 0))}, b""),
    "a product beyond 64 bits": ({"x": entry([1 << 40] * 3)}, b"abcd"),
    "a negative size": ({"x": entry([-1])}, b"abcd"),
    "a size of half": ({"x": entry([0.5])}, b"abcd"),
    "a size of true": ({"x": entry([True])}, b"abcd"),
    "offsets beyond the end": ({"x": entry([4], offsets=(0, 16))}, b"abcd"),
    "offsets before the start": ({"x": entry(offsets=(-4, 0))}, b"abcd"),
    "offsets in the wrong order": ({"x": entry(offsets=(4, 0))}, b"abcd"),
    "overlap": ({"x": entry(), "y": entry()}, b"abcd"),
    "a gap": ({"x": entry(offsets=(4, 8))}, b"abcdefgh"),
    "bytes at the end": ({"x": entry()}, b"abcdefgh"),
    "no offsets": ({"x": {"dtype": "F32", "shape": [1]}}, b"abcd"),
    "another type": ({"x": entry(dtype="F8_E4M3", offsets=(0, 1))}, b"a"),
    "a type that is no name": ({"x": entry(dtype="\x1b[31m")}, b"abcd"),
    "a type that is a list": ({"x": entry(dtype=["F32"])}, b"abcd"),
    "an entry that is a number": ({"x": 5}, b""),
    "a list": ([1], b""),
    "deep": (b"[" * 100_000, b""),
    "not JSON": (b"{x", b""),
    "not UTF-8": (b'{"\xff": 1}', b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(name: str, tmp_path: Path) -> None:
    header, content = HOSTILE[name]
    with pytest.raises(UserError) as caught:
        list_safetensors(written(tmp_path / "a", header, content))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("length", [0, 1 << 20, 20 << 20, 1 << 40, (1 << 64) - 1])
def test_a_header_longer_than_its_file_or_than_any_is_refused(length: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + b"{}")
    os.truncate(tmp_path / "a", 100 << 20 if length == 20 << 20 else 100)
    with pytest.raises(UserError, match=f"its header claims {length} bytes"):
        list_safetensors(tmp_path / "a")


def test_a_sparse_file_of_20_gb_is_listed_without_reading_it(tmp_path: Path) -> None:
    size = 20 << 30
    path = written(tmp_path / "a", {"x": entry([size // 4], offsets=(0, size))})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    os.truncate(path, path.stat().st_size + size)
    assert list_safetensors(path)[0]["x"].shape == (size // 4,)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
