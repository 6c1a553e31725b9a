"""Synthetic photographs of the size of ImageNet's, for measurements without images of one's own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..install import install_command

WIDTH, HEIGHT = 500, 375
NAMES = 10
"""Names that each photo has, so that lists are of a usual length."""


def write_photos(folder: Path, count: int = 200) -> None:
    """Write crops of scikit-learn's two photos, zoomed, lit and grained differently, as JPEGs of
    some 50 kB in 10 class folders. Raises UserError without scikit-learn."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise UserError(
            f"the photos come with scikit-learn; {install_command('demo')}, or name images"
        ) from None
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(count):
        photo = photos[i % 2]
        zoom = rng.uniform(0.4, 0.87)
        w, h = photo.width * zoom, photo.height * zoom
        x, y = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
        crop = photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
        light = 1 + 0.3 * np.outer(np.linspace(-1, 1, HEIGHT), np.linspace(-1, 1, WIDTH))
        pixels = np.asarray(crop, np.float32)
        grain = rng.normal(0, rng.uniform(1, 6), pixels.shape)
        pixels = np.clip(pixels * light[..., None] + grain, 0, 255).astype(np.uint8)
        path = folder / f"class{i % 10}" / f"photo{i:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, quality=int(rng.integers(80, 96)))
        for k in range(1, NAMES):
            os.link(path, path.with_stem(f"{path.stem}-{k}"))
