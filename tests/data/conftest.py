"""Pictures and encoders that the data tests share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


def _photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """uint8 RGB with what photos have: gradients, edges, texture and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.stack([255 * x / width, 255 * y / height, 128 + 100 * np.sin(x / 9)], -1)
    for _ in range(12):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(5, 60)
        image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    image[height // 2 :, ::7] *= 0.5
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def _encode(image: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An array or a Pillow image as a file of that format."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo() -> Callable[..., np.ndarray]:
    return _photo


@pytest.fixture(scope="session")
def encode() -> Encode:
    return _encode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, named so that no numeric order is alphabetic, of 3 + 5 + 2 images."""
    root = tmp_path / "images"
    number = 0
    for name, count in (("2", 3), ("10", 5), ("ant", 2)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            kind, ending = (("PNG", "png"), ("JPEG", "JPG"), ("WebP", "webp"))[i % 3]
            image = _photo(40 + number, 48 - number, seed=number)
            (root / name / f"{i}.{ending}").write_bytes(_encode(image, kind))
            number += 1
    return root
