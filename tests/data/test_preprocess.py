"""Evaluation preprocessing equals plain Pillow, torchvision and timm, to the byte."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seresnext.data.preprocess import MAX_ASPECT, preprocess
from seresnext.model.spec import InputSpec

Make = Callable[..., np.ndarray]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SIZES = [(500, 375), (375, 500), (256, 256), (257, 301), (40, 31), (8, 8), (1, 1), (1200, 90)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
def test_short_side_then_centre_crop(photo: Make, interpolation, size: tuple[int, int]) -> None:
    image = photo(*size)
    plain = Image.fromarray(image)
    scale = 256 / min(size)
    width = 256 if size[0] <= size[1] else int(256 * size[0] / size[1])
    height = 256 if size[1] <= size[0] else int(256 * size[1] / size[0])
    assert abs(width - scale * size[0]) <= 1
    plain = plain.resize((width, height), FILTERS[interpolation])
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    plain = plain.crop((left, top, left + 224, top + 224))
    found = preprocess(image, InputSpec(interpolation=interpolation))
    assert found.shape == (224, 224, 3)
    assert found.dtype == np.uint8
    assert found.flags["C_CONTIGUOUS"]
    assert np.array_equal(found, np.asarray(plain))


@pytest.mark.parametrize("size", SIZES)
def test_stretch(photo: Make, size: tuple[int, int]) -> None:
    image = photo(*size)
    plain = Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR)
    spec = InputSpec(resize="stretch", interpolation="bilinear")
    assert np.array_equal(preprocess(image, spec), np.asarray(plain)[16:240, 16:240])


def test_without_a_margin_nothing_is_cut(photo: Make) -> None:
    image = photo(300, 300)
    plain = Image.fromarray(image).resize((128, 128), Image.Resampling.BICUBIC)
    found = preprocess(image, InputSpec(image_size=128, crop_ratio=1.0))
    assert np.array_equal(found, np.asarray(plain))


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.sampled_from([32, 64, 97, 160]),
    ratio=st.sampled_from([0.875, 0.9, 0.95, 0.96, 1.0]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_equals_timm(
    photo: Make, width: int, height: int, size: int, ratio: float, interpolation
) -> None:
    image = photo(width, height)
    if max(width, height) > MAX_ASPECT * min(width, height):
        return
    timm = timm_transform()(
        (3, size, size),
        crop_pct=ratio,
        interpolation=interpolation,
        normalize=False,
    )
    found = preprocess(
        image, InputSpec(image_size=size, crop_ratio=ratio, interpolation=interpolation)
    )
    expected = timm(Image.fromarray(image)).permute(1, 2, 0).numpy()
    assert np.array_equal(found, expected)


def timm_transform() -> Callable:
    """timm's own preprocessing; its torchvision must fit the installed torch."""
    try:
        from timm.data import create_transform
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm's transforms cannot be imported: {error}")
    return create_transform


def test_strips_are_bounded(photo: Make) -> None:
    """One pixel by 20,000 would become 256 by 5 million; only its middle 16 count."""
    strip = photo(20_000, 1)
    middle = strip[:, 9992:10_008]
    assert np.array_equal(preprocess(strip, InputSpec()), preprocess(middle, InputSpec()))
    upright = np.ascontiguousarray(strip.transpose(1, 0, 2))
    turned = preprocess(upright, InputSpec()).transpose(1, 0, 2)
    assert np.abs(turned.astype(int) - preprocess(strip, InputSpec())).max() <= 1
