"""A tiny network as an ONNX file, and a server in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import seresnext
from runtimes.networks import artifact, random_weights, tiny_spec
from seresnext.exporters import onnx as onnx_export
from serve.servers import Server, serving


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serve") / "tiny.onnx"
    described = artifact(tiny_spec())
    onnx_export.write(onnx_export.build(described, random_weights(tiny_spec())), described, path)
    return path


@pytest.fixture(scope="session")
def model(tiny_onnx: Path) -> Iterator[seresnext.Model]:
    """The same network in this process."""
    with seresnext.load(tiny_onnx) as model:
        yield model


@pytest.fixture(scope="session")
def server(tiny_onnx: Path) -> Iterator[Server]:
    """One server with two names of one network; tests share it."""
    with serving(tiny_onnx, f"other={tiny_onnx}", "--max-pixels", 1_000_000) as server:
        yield server
