"""Preprocessing for evaluation, prediction and the comparison of exports."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..model.spec import InputSpec

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

MAX_ASPECT = 16
"""Only the middle of a longer strip is resized. The crop takes no more of it, and resizing a strip
of 1 x 1,000,000 pixels whole would exhaust the memory."""


def preprocess(image: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Resize with Pillow's antialiased filter, then crop: uint8 [S, S, 3] from uint8 RGB [H, W, 3].

    `resize="short"`: the short side becomes R = floor(S / crop_ratio), the long one
    int(R * long / short); `"stretch"`: both become R. The crop starts at round((side - S) / 2),
    rounding half to even. timm and torchvision round in the same way, so a model gets the same
    pixels there. `"original"` gives the pixels of MindSpore's `Resize` and `CenterCrop`: OpenCV's
    bilinear filter, whatever `interpolation` says, and a crop that starts at the lower pixel.
    """
    size = spec.image_size
    short = math.floor(size / spec.crop_ratio)
    height, width = image.shape[:2]
    if spec.resize == "stretch":
        width, height = short, short
    else:
        image = _limit_aspect(image)
        height, width = image.shape[:2]
        if width <= height:
            width, height = short, int(short * height / width)
        else:
            width, height = int(short * width / height), short
    if spec.resize == "original":
        left, top = (width - size) // 2, (height - size) // 2
        plain = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(plain[top : top + size, left : left + size], np.uint8)
    resized = Image.fromarray(image).resize((width, height), _FILTERS[spec.interpolation])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(resized.crop((left, top, left + size, top + size)))


def _limit_aspect(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle of a strip, at most `MAX_ASPECT` times as long as wide."""
    height, width = image.shape[:2]
    long = MAX_ASPECT * min(height, width)
    top, left = max(0, height - long) // 2, max(0, width - long) // 2
    return np.ascontiguousarray(image[top : top + long, left : left + long])
