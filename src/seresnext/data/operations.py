"""Operations on the pixels of a training image, uint8 [H, W, 3] in RGB.

Semantics are those of Pillow's ImageOps, ImageEnhance and Image.transform; the arithmetic is
OpenCV's, within a level or two of Pillow's. An input is never changed.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .decode import Box

Image = NDArray[np.uint8]
"""uint8 [H, W, 3]."""
Color = tuple[int, int, int]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's convert("L")

# Geometry: bilinear; what comes from outside the image has the colour `fill`, or repeats the edge


def shift(image: Image, dx: int, dy: int) -> Image:
    """Move the image right by `dx` and down by `dy` pixels, repeating the edge."""
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(
        image, max(dy, 0), max(-dy, 0), max(dx, 0), max(-dx, 0), cv2.BORDER_REPLICATE
    )
    y, x = max(-dy, 0), max(-dx, 0)
    return np.ascontiguousarray(padded[y : y + height, x : x + width])


def rotate(image: Image, degrees: float, fill: Color | None = None) -> Image:
    """Rotate counter-clockwise around the centre."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return _warp(image, matrix, cv2.INTER_LINEAR, fill)


def shear_x(image: Image, factor: float, fill: Color | None = None) -> Image:
    """Take each pixel from `factor` times its distance from the top further right."""
    return _affine(image, (1, factor, 0, 0, 1, 0), fill)


def shear_y(image: Image, factor: float, fill: Color | None = None) -> Image:
    """Take each pixel from `factor` times its distance from the left further down."""
    return _affine(image, (1, 0, 0, factor, 1, 0), fill)


def translate_x(image: Image, share: float, fill: Color | None = None) -> Image:
    """Take each pixel from this share of the width further right."""
    return _affine(image, (1, 0, share * image.shape[1], 0, 1, 0), fill)


def translate_y(image: Image, share: float, fill: Color | None = None) -> Image:
    """Take each pixel from this share of the height further down."""
    return _affine(image, (1, 0, 0, 0, 1, share * image.shape[0]), fill)


def _affine(image: Image, entries: tuple[float, ...], fill: Color | None) -> Image:
    """Take the pixel at (x, y) from (ax + by + c, dx + ey + f), the entries being a to f.

    Coordinates count from the image's corner, as in Pillow's Image.transform; OpenCV's count from
    the centre of the first pixel.
    """
    a, b, c, d, e, f = entries
    matrix = np.array([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])
    return _warp(image, matrix, cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, fill)


def _warp(image: Image, matrix: NDArray[np.float64], flags: int, fill: Color | None) -> Image:
    border = cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(
        image, matrix, size, flags=flags, borderMode=border, borderValue=fill or (0, 0, 0)
    )


# Colour ------------------------------------------------------------------------------------


def brightness(image: Image, factor: float) -> Image:
    """Return `factor` * pixel (Pillow's ImageEnhance.Brightness)."""
    return cv2.addWeighted(image, factor, image, 0, 0)


def contrast(image: Image, factor: float) -> Image:
    """Blend with the mean grey of the image (ImageEnhance.Contrast)."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * mean)


def saturation(image: Image, factor: float) -> Image:
    """Blend with each pixel's own grey (ImageEnhance.Color), as one 3x3 matrix."""
    matrix = factor * np.eye(3, dtype=np.float32) + (1 - factor) * _LUMA
    return cv2.transform(image, matrix.astype(np.float32))


def hue(image: Image, turn: float) -> Image:
    """Rotate the hue by `turn` of a full circle, in float32 HSV (faster than in uint8)."""
    hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 0] += np.float32(360 * (turn % 1))
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def grey(image: Image) -> Image:
    """Return the image without colour, in three equal channels (torchvision's Grayscale)."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def invert(image: Image) -> Image:
    """Return 255 - pixel (ImageOps.invert)."""
    return cv2.bitwise_not(image)


def solarize(image: Image, threshold: float) -> Image:
    """Invert the levels from `threshold` up (ImageOps.solarize)."""
    inverted = np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS)
    return cv2.LUT(image, inverted.astype(np.uint8))


def solarize_add(image: Image, amount: int) -> Image:
    """Add `amount` to the levels below 128."""
    brighter = np.minimum(_LEVELS + amount, 255)
    return cv2.LUT(image, np.where(_LEVELS < 128, brighter, _LEVELS).astype(np.uint8))


def posterize(image: Image, bits: int) -> Image:
    """Keep the highest `bits` of each level (ImageOps.posterize), 0 to 8."""
    return cv2.LUT(image, (_LEVELS & (256 - (1 << (8 - bits)))).astype(np.uint8))


def autocontrast(image: Image) -> Image:
    """Stretch each channel's levels to 0..255 (ImageOps.autocontrast)."""
    table = np.empty((256, 3))
    for channel, counts in enumerate(_histograms(image)):
        found = np.flatnonzero(counts)
        low, high = int(found[0]), int(found[-1])
        scale = 255 / (high - low) if high > low else 1
        table[:, channel] = _LEVELS * scale - (low * scale if high > low else 0)
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[None])


def equalize(image: Image) -> Image:
    """Spread each channel's levels so that all are about equally frequent (ImageOps.equalize)."""
    table = np.tile(_LEVELS[:, None], 3)
    for channel, counts in enumerate(_histograms(image)):
        found = counts[counts > 0]
        step = (counts.sum() - found[-1]) // 255
        if len(found) > 1 and step:
            below = np.cumsum(counts) - counts
            table[:, channel] = np.minimum((step // 2 + below) // step, 255)
    return cv2.LUT(image, table.astype(np.uint8)[None])


_LEVELS = np.arange(256)


def _histograms(image: Image) -> list[NDArray[np.int64]]:
    """Return how often each channel has each level, int64 [256]."""
    return [
        cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        for channel in range(3)
    ]


# Sharpness ---------------------------------------------------------------------------------


def blur(image: Image, sigma: float) -> Image:
    """Blur with a Gaussian of `sigma` pixels, repeating the edge."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def sharpness(image: Image, factor: float) -> Image:
    """Blend with the image smoothed over 3x3 pixels (ImageEnhance.Sharpness); the edge stays."""
    smooth = cv2.filter2D(image, -1, _SMOOTH)
    out = cv2.addWeighted(image, factor, smooth, 1 - factor, 0)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        out[edge] = image[edge]
    return out


_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # ImageFilter.SMOOTH


# Erasing -----------------------------------------------------------------------------------


def erase(image: Image, box: Box, color: NDArray[np.uint8]) -> Image:
    """Fill `box` with `color`."""
    image = image.copy()
    image[box.y : box.y + box.height, box.x : box.x + box.width] = color
    return image
