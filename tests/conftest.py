"""Runs that several test files compare with: made once, never written to again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Many processes share the cores here; OpenMP threads that spin while they wait would starve the
# others. Read when the library is loaded, and inherited by the commands that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from faults.runs import digest, seresnext, words, write_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """39 + 13 images of 3 classes."""
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def one(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An undisturbed run of 24 steps of 4 images: its folder and digest."""
    out = tmp_path_factory.mktemp("one") / "run"
    seresnext(words(images, out, 24, 4))
    return out, digest(out)


@pytest.fixture(scope="session")
def two(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same by two processes of 2 images each."""
    out = tmp_path_factory.mktemp("two") / "run"
    seresnext(words(images, out, 24, 2, "--nproc", 2))
    return out, digest(out)


@pytest.fixture(scope="session")
def shards(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One process, 12 steps of 8 images in 4 virtual shards."""
    out = tmp_path_factory.mktemp("shards") / "run"
    seresnext(words(images, out, 12, 8, "--virtual-shards", 4))
    return out, digest(out)
