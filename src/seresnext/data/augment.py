"""Training augmentation: crop, resize, shift, rotation, flip, policy, colour, erasing, mixing.

An image's random numbers are drawn at once, and each operation has fixed positions among them
(`_CROP` and so on), so that enabling one does not change the others; those of a policy follow.
Semantics are torchvision's; what is done with pixels is in `operations.py`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from ..config import AugmentConfig
from ..config.policy import parse_policy
from . import operations
from .decode import Box, open_image
from .policy import apply_policy, draws_of

_TRIES = 10
_CROP = slice(0, 4 * _TRIES)
_SHIFT = slice(40, 42)
_ROTATE = 42
_FLIP = 43
_COLOR = slice(44, 49)
_ERASE = slice(49, 50 + 4 * _TRIES)
_THREE = slice(90, 93)
_DRAWS = 93

_ORDERS = tuple(itertools.permutations(range(4)))


def augment(
    image: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return an augmented image, uint8 [S, S, 3] with S = `config.image_size`, from [H, W, 3]."""
    draws = _draw(config, rng)
    height, width = image.shape[:2]
    box = draw_crop(width, height, config, draws[_CROP])
    image = image[box.y : box.y + box.height, box.x : box.x + box.width]
    return _finish(image, config, draws)


def augment_encoded(
    data: bytes, config: AugmentConfig, rng: np.random.Generator, max_pixels: int
) -> NDArray[np.uint8]:
    """Return `augment` of an encoded image. Raises ImageError.

    The crop is drawn from the size in the header, so that only what it needs of a JPEG is decoded.
    """
    draws = _draw(config, rng)
    image = open_image(data, max_pixels)
    box = draw_crop(image.width, image.height, config, draws[_CROP])
    return _finish(image.crop(box, config.image_size), config, draws)


def _draw(config: AugmentConfig, rng: np.random.Generator) -> list[float]:
    """Return an image's random numbers."""
    return rng.random(_DRAWS + draws_of(parse_policy(config.policy))).tolist()


def _finish(
    image: NDArray[np.uint8], config: AugmentConfig, draws: list[float]
) -> NDArray[np.uint8]:
    """Apply everything after the crop."""
    image = resize(image, config.image_size)
    if config.shift:
        image = operations.shift(
            image, *(_integer(u, -config.shift, config.shift) for u in draws[_SHIFT])
        )
    if config.rotate:
        image = operations.rotate(image, _between(draws[_ROTATE], -config.rotate, config.rotate))
    if draws[_FLIP] < config.hflip:
        image = cv2.flip(image, 1)
    policy = parse_policy(config.policy)
    if policy:
        red, green, blue = mean_color(config).tolist()
        image = apply_policy(image, policy, draws[_DRAWS:], (red, green, blue))
    chance, kind, strength = draws[_THREE]
    if chance < config.three_augment:
        image = THREE[int(kind * len(THREE))](image, strength)
    if any(config.color_jitter):
        image = color_jitter(image, config.color_jitter, draws[_COLOR])
    erased = draw_erase(config, draws[_ERASE])
    if erased:
        image = operations.erase(image, erased, mean_color(config))
    return image


def _between(u: float, low: float, high: float) -> float:
    """Map u in [0, 1) to [low, high)."""
    return low + u * (high - low)


def _integer(u: float, low: int, high: int) -> int:
    """Map u in [0, 1) to low, ..., high."""
    return low + int(u * (high - low + 1))


# Geometry ----------------------------------------------------------------------------------


def draw_crop(width: int, height: int, config: AugmentConfig, u: list[float]) -> Box:
    """Return a random-resized crop (arXiv:1409.4842, section 6).

    After ten tries that do not fit, it is the largest centre crop with an allowed ratio. A scale of
    (1, 1) takes the whole image.
    """
    if config.crop_scale == (1.0, 1.0):
        return Box(0, 0, width, height)
    low, high = config.crop_ratio
    for a, r, x, y in zip(*(u[k::4] for k in range(4)), strict=True):
        area = width * height * _between(a, *config.crop_scale)
        ratio = math.exp(_between(r, math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(_integer(x, 0, width - w), _integer(y, 0, height - h), w, h)
    w, h = width, height
    if width / height < low:
        h = max(1, round(w / low))
    elif width / height > high:
        w = max(1, round(h * high))
    return Box((width - w) // 2, (height - h) // 2, w, h)


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize to size x size, bilinear; antialiased when shrinking, like Pillow's BILINEAR.

    OpenCV's own antialiased filter, INTER_AREA, takes four times as long.
    """
    height, width = image.shape[:2]
    most = _MAX_SHRINKING * size
    if height > most or width > most:
        width, height = min(width, most), min(height, most)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if height > size or width > size:
        image = cv2.sepFilter2D(
            image,
            -1,
            _antialias(round(_STEPS * width / size)),
            _antialias(round(_STEPS * height / size)),
            borderType=cv2.BORDER_REFLECT,
        )
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


_MAX_SHRINKING = 256
"""Further shrinking is left to INTER_AREA: the blur's cost grows with the square of the factor, and
a strip of 1 x 3,000,000 pixels would take minutes."""
_STEPS = 64  # shrinking factors are rounded to 1/64


@functools.lru_cache(maxsize=1024)
def _antialias(factor: int) -> NDArray[np.uint8]:
    """Return the blur kernel for bilinear sampling at every f = `factor` / _STEPS pixels, float32.

    Bilinear sampling itself is a triangle filter of half-width 1 and variance 1/6; together with
    the blur it should have f^2/6, the variance of half-width f. Triangles of integer half-width n
    have variance (n^2 - 1)/6 on the pixel grid; the two nearest are mixed to give (f^2 - 1)/6.
    OpenCV computes in units of 1/256, so the weights are multiples of that and sum to 1 exactly.
    """
    f = max(1.0, factor / _STEPS)
    n = int(f)
    narrow, wide = (np.convolve(np.ones(k), np.ones(k)) / k**2 for k in (n, n + 1))
    share = (f**2 - n**2) / ((n + 1) ** 2 - n**2)
    kernel = np.rint(256 * (share * wide + (1 - share) * np.pad(narrow, 1)))
    kernel[n] += 256 - kernel.sum()
    return (kernel / 256).astype(np.float32)


# Colour ------------------------------------------------------------------------------------


def color_jitter(
    image: NDArray[np.uint8], strength: tuple[float, float, float, float], u: list[float]
) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue in random order, as torchvision does."""
    order, *u = u
    for k in _ORDERS[int(order * len(_ORDERS))]:
        if not strength[k]:
            continue
        if k == 3:
            image = operations.hue(image, _between(u[3], -strength[3], strength[3]))
        else:
            factor = _between(u[k], max(0.0, 1 - strength[k]), 1 + strength[k])
            image = _JITTER[k](image, factor)
    return image


_JITTER = (operations.brightness, operations.contrast, operations.saturation)

THREE: tuple[Callable[[NDArray[np.uint8], float], NDArray[np.uint8]], ...] = (
    lambda image, u: operations.grey(image),
    lambda image, u: operations.solarize(image, 128),
    lambda image, u: operations.blur(image, _between(u, 0.1, 2.0)),
)
"""What `three_augment` draws from, equally often: from an image and a number in [0, 1)."""


def mean_color(config: AugmentConfig) -> NDArray[np.uint8]:
    """Return the colour that normalises to zero, uint8 [3]."""
    return np.rint(255 * np.array(config.mean)).astype(np.uint8)


# Erasing and mixing ------------------------------------------------------------------------


def draw_erase(config: AugmentConfig, u: list[float]) -> Box | None:
    """Return the rectangle to erase, if any: 2 to 33 % of the area, ratio 0.3 to 3.3
    (arXiv:1708.04896)."""
    if u[0] >= config.erase:
        return None
    size = config.image_size
    for a, r, x, y in zip(*(u[1 + k :: 4] for k in range(4)), strict=True):
        area = size * size * _between(a, 0.02, 0.33)
        ratio = math.exp(_between(r, math.log(0.3), math.log(3.3)))
        w, h = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if w < size and h < size:
            return Box(_integer(x, 0, size - w), _integer(y, 0, size - h), w, h)
    return None


def mix_pair(
    a: NDArray[np.uint8], b: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator
) -> float:
    """Blend two uint8 [S, S, 3] images into each other, in place, by mixup or CutMix.

    Returns the weight of each image's own label: with mixup (arXiv:1710.09412) the weight of its
    pixel values, with CutMix (arXiv:1905.04899) the share of its pixels that are kept, counted
    after clipping the box at the edges.
    """
    kind, x, y = rng.random(3).tolist()
    if config.mixup and (not config.cutmix or kind < 0.5):
        weight = float(rng.beta(config.mixup, config.mixup))
        a[:], b[:] = (
            cv2.addWeighted(a, weight, b, 1 - weight, 0),
            cv2.addWeighted(b, weight, a, 1 - weight, 0),
        )
        return weight
    height, width = a.shape[:2]
    side = math.sqrt(1 - rng.beta(config.cutmix, config.cutmix))
    cx, cy, w, h = int(x * width), int(y * height), int(width * side), int(height * side)
    x0, x1 = max(cx - w // 2, 0), min(cx + w // 2, width)
    y0, y1 = max(cy - h // 2, 0), min(cy + h // 2, height)
    kept = a[y0:y1, x0:x1].copy()
    a[y0:y1, x0:x1] = b[y0:y1, x0:x1]
    b[y0:y1, x0:x1] = kept
    return 1 - (x1 - x0) * (y1 - y0) / (width * height)
