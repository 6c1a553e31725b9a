"""A run's data settings hold for whatever is done with its model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runs import run_cli, train_arguments, write_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """39 images in class folders without splits; one of them is a link."""
    root = write_images(tmp_path_factory.mktemp("photos")).joinpath("train")
    image = root / "red" / "0.png"
    image.rename(root.parent / "elsewhere.png")
    image.symlink_to(root.parent / "elsewhere.png")
    return root


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    printed = run_cli(*train_arguments(photos, out, 2, 4, "--follow-links")).stdout
    assert f"training on {photos} (80% of each class)" in printed
    assert f"validating on {photos} (20% of each class, held out by --val-share)" in printed
    return out


def evaluated(run: Path, data: Path, *more: object) -> tuple[int, str]:
    """Number of images, and which they are."""
    found = json.loads(run_cli("evaluate", run, "--data", data, "--json", *more).stdout)
    return found["images"], found["data"]


def test_what_was_held_out_is_evaluated(trained: Path, photos: Path, tmp_path: Path) -> None:
    settings = json.loads((trained / "config.json").read_text())["data"]
    assert (settings["val_share"], settings["follow_links"]) == (0.2, True)
    held_out = f"{photos} (20% of each class, held out by --val-share)"
    assert evaluated(trained, photos) == (9, held_out)
    assert evaluated(trained, photos, "--val-share", 0) == (39, str(photos))
    other = photos.rename(tmp_path / "moved")
    assert evaluated(trained, other) == (39, str(other))
    assert evaluated(trained, other, "--val-share", 0.2)[0] == 9
    assert evaluated(trained, other, "--no-follow-links") == (38, str(other))
    other.rename(photos)


def test_resume_keeps_the_division(trained: Path, photos: Path) -> None:
    run_cli(*train_arguments(photos, trained, 4, 4, "--follow-links"))
    line = run_cli(*train_arguments(photos, trained, 6, 4), "--val-share", 0.3, code=1).stderr
    assert "the training images are not those of the checkpoint" in line


def test_skip_holds_for_files_that_are_gone(photos: Path, tmp_path: Path) -> None:
    rows = [f"{file},{file.parts[-2]}" for file in sorted(photos.glob("*/*.png"))]
    table = tmp_path / "list.csv"
    table.write_text("\n".join([*rows, "gone.png,red", "lost.png,green"]))
    out = tmp_path / "run"
    run_cli(*train_arguments(table, out, 8, 4, "--on-bad-image", "skip", "--val-share", 0))
    listed = [json.loads(line) for line in (out / "bad-images.jsonl").read_text().splitlines()]
    assert {Path(entry["file"]).name for entry in listed} == {"gone.png", "lost.png"}
    assert evaluated(out, table)[0] == len(rows)  # skipped as in the run
