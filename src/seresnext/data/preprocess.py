"""Evaluation preprocessing: one definition for evaluate, predict, serve and the export gate."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..model.spec import InputSpec

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

MAX_ASPECT = 16
"""Of a longer strip only the middle is resized. The crop sees no more of it, and a strip of one
by a million pixels would be blown up to a size that fills the memory."""


def preprocess(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> uint8 [S, S, 3]: resize with Pillow's antialiased filter, then crop.

    `resize="short"`: the short side becomes R = floor(S / crop_ratio), the long one
    int(R * long / short); `"stretch"`: both become R. The crop starts at round((side - S) / 2),
    halves to even. These are the roundings of timm and torchvision, so that a model opened there
    sees the same pixels.
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
    resized = Image.fromarray(image).resize((width, height), _FILTERS[spec.interpolation])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(resized.crop((left, top, left + size, top + size)))


def _limit_aspect(image: np.ndarray) -> np.ndarray:
    """The middle of a strip, `MAX_ASPECT` times as long as wide."""
    height, width = image.shape[:2]
    long = MAX_ASPECT * min(height, width)
    top, left = max(0, height - long) // 2, max(0, width - long) // 2
    return np.ascontiguousarray(image[top : top + long, left : left + long])
