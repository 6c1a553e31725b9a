"""`seresnext data show`: the first batch of a run, as a picture."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runs import run_cli
from seresnext.config import Config
from seresnext.config.recipes import recipe
from seresnext.data.loader import Reader, Share, train_batches
from seresnext.data.sources import open_splits
from seresnext.files import to_json


@pytest.mark.parametrize("name", ["finetune", "imagenet", "imagenet-fast-16"])
def test_it_is_the_runs_first_batch(images: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "sheet.png"
    arguments = ("--recipe", name, "--images", 5, "--image-size", 32, "--seed", 3)
    done = run_cli("data", "show", images, "--out", out, *arguments)
    assert f"6 images as {name} trains on them" in done.stdout
    config: Config = recipe(name)
    data = replace(config.data, root=str(images), drop_last=False)
    train, _ = open_splits(data)
    batches = train_batches(
        Reader(train, data), replace(config.augment, image_size=32), Share(6), seed=3
    )
    expected = next(batches).images
    batches.close()
    with Image.open(out) as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (68, 104, 3)
    tiles = [sheet[y : y + 32, x : x + 32] for y in (0, 36) for x in (0, 36, 72)]
    assert (np.array(tiles) == expected).all()
    assert (sheet[32:36] == 255).all()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--images", 1), "expected 2 to 256"),
        (("--out", "sheet.jpg"), "ends in .png"),
        (("--recipe", "demo", "--config", "config.json"), "not both"),
    ],
)
def test_usage(images: Path, arguments: tuple[object, ...], problem: str) -> None:
    assert problem in run_cli("data", "show", images, *arguments, code=2).stderr


def test_repeats_and_unreadable_images(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    next((folder / "train").rglob("*.*g")).write_bytes(b"no image")
    config = recipe("finetune")
    config = replace(
        config, data=replace(config.data, root="other", val_share=0.2, drop_last=False)
    )
    config = replace(config, augment=replace(config.augment, image_size=32, repeats=3))
    (tmp_path / "config.json").write_text(to_json(asdict(config)))
    arguments = ("--config", tmp_path / "config.json", "--images", 7, "--out", tmp_path / "s.png")
    assert "12 images" in run_cli("data", "show", folder, *arguments).stdout
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (140, 104)
