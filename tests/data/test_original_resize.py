"""`resize="original"`: the pixels of the original's evaluation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from seresnext.data.preprocess import preprocess
from seresnext.model.spec import InputSpec

SIZES = [(300, 401), (375, 500), (500, 333), (257, 300), (1000, 701), (200, 150), (335, 501)]
ORIGINAL = InputSpec(interpolation="bilinear", resize="original")


def picture(height: int, width: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height)), np.uint8)


def test_pixels_are_not_antialiased() -> None:
    """Each pixel is a mean of its four neighbours, and the crop begins at the lower pixel."""
    image = picture(375, 500)
    pixels = preprocess(image, ORIGINAL)
    row, column = ((16 + 0.5) * 375 / 256 - 0.5, (58 + 0.5) * 500 / 341 - 0.5)
    y, x = int(row), int(column)
    across = image[y : y + 2, x] * (1 - column + x) + image[y : y + 2, x + 1] * (column - x)
    expected = across[0] * (1 - row + y) + across[1] * (row - y)
    np.testing.assert_allclose(pixels[0, 0], expected, atol=1)
    ours = preprocess(picture(1000, 701), InputSpec(interpolation="bilinear"))
    assert np.abs(preprocess(picture(1000, 701), ORIGINAL) - ours.astype(int)).mean() > 1


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pixels_are_those_of_mindspore(height: int, width: int) -> None:
    vision = pytest.importorskip("mindspore.dataset.vision", reason="needs MindSpore")
    image = picture(height, width)
    expected = vision.CenterCrop(224)(vision.Resize(256)(image))
    np.testing.assert_array_equal(preprocess(image, ORIGINAL), expected)
