"""A tiny network as an ONNX file, and a server in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import seresnext
from runtimes.networks import artifact, random_weights, tiny_spec
from seresnext.exporters import onnx as onnx_export
from serve.servers import Server, serving


def write(path: Path, image_size: int, with_cam: bool = False) -> Path:
    spec = tiny_spec(image_size)
    described = artifact(spec, with_cam=with_cam)
    onnx_export.write(onnx_export.build(described, random_weights(spec)), described, path)
    return path


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("serve") / "tiny.onnx", 32)


@pytest.fixture(scope="session")
def maps_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With class activation maps of 3 x 3 places."""
    return write(tmp_path_factory.mktemp("serve") / "maps.onnx", 80, with_cam=True)


@pytest.fixture(scope="session")
def slow_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes some tenths of a second for an image."""
    return write(tmp_path_factory.mktemp("serve") / "slow.onnx", 256)


@pytest.fixture(scope="session")
def model(tiny_onnx: Path) -> Iterator[seresnext.Model]:
    """The same network in this process."""
    with seresnext.load(tiny_onnx) as model:
        yield model


@pytest.fixture(scope="session")
def server(tiny_onnx: Path, maps_onnx: Path) -> Iterator[Server]:
    """One server with two names of one network, and one with maps; tests share it."""
    models = (tiny_onnx, f"other={tiny_onnx}", maps_onnx)
    with serving(*models, "--max-pixels", 1_000_000) as server:
        yield server
