"""Names that people give to files reach no library that could stumble over them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import seresnext
from runs import run_cli, write_images
from runtimes.networks import random_weights, tiny_spec
from seresnext.model.saved_model import save_model

ODD = os.fsdecode("d\u00f6g \u6a21 +%41 'a\"#?&[x]{y} ".encode() + b"\xff")
"""Not ASCII, not UTF-8, a space at the end, and what shells, URLs and patterns act on."""
LONG = "x" * 180
NAMED = [
    pytest.param(ODD, id="odd"),
    pytest.param(LONG, id="long", marks=pytest.mark.slow),
    pytest.param("", id="relative", marks=pytest.mark.slow),
    pytest.param("link", id="link", marks=pytest.mark.slow),
]


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of that name, with a model and images in it."""
    real = tmp_path / ("real" if request.param == "link" else request.param)
    real.mkdir(exist_ok=True)
    if request.param == "link":
        (tmp_path / "link").symlink_to("real")
    save_model(real / "model", tiny_spec(), random_weights(tiny_spec()))
    write_images(real / "data", train=3, val=3)
    monkeypatch.chdir(tmp_path)
    return Path(request.param)


FORMATS = [
    ".onnx",
    ".xml",
    ".pt2",
    pytest.param(".mindir", marks=pytest.mark.slow),  # MindSpore compiles for long
]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("folder", NAMED, indirect=True)
def test_exports(folder: Path, suffix: str) -> None:
    out = folder / f"m{folder.name}{suffix}"
    seresnext.export(folder / "model", out)
    image = next((folder / "data" / "val").rglob("*.png"))
    renamed = image.rename(folder / f"p{folder.name}.png")
    found, expected = (seresnext.load(m).predict(renamed) for m in (out, folder / "model"))
    assert found.classes == expected.classes
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ""])
@pytest.mark.parametrize("folder", NAMED, indirect=True)
def test_weights(folder: Path, suffix: str) -> None:
    out = folder / f"w{folder.name}{suffix}"
    layout = ["--to", "mindcv", "--allow-pooling-change"] if suffix == ".ckpt" else []
    run_cli("convert", folder / "model", out, *layout)
    run_cli("convert", out, folder / "again")
    assert (folder / "again" / "model.safetensors").stat().st_size > 100_000
    shutil.rmtree(folder / "again")
