"""Where a network looks: class activation maps and squeeze-and-excitation gates.

The network ends in a global average pool and one linear layer, so the logit of a class is the mean
over the last feature map of that map times the classifier's row, plus the bias: the product at each
place is exactly its part of the logit (CAM, Zhou et al. 2016, equation 2). No gradient is needed.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STOPS = np.array(
    [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]],
    np.float64,
)
"""Colours of matplotlib's "inferno" at equal distances."""


def class_activation(
    features: NDArray[np.float32], row: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the parts [h, w] of a class's logit without its bias; their mean is the logit.

    `features` float32 [C, h, w] is the last feature map, `row` [C] the classifier's row.
    """
    return np.asarray(np.tensordot(row, features, axes=1), np.float32)


def overlay(image: NDArray[np.uint8], activation: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the image [S, S, 3] with the map over it: what speaks for the class, bright.

    Negative parts speak against the class and are drawn as none.
    """
    side = (image.shape[1], image.shape[0])
    positive = np.maximum(activation, 0)
    small = Image.fromarray(positive / max(float(positive.max()), 1e-12))
    heat = np.clip(np.asarray(small.resize(side, Image.Resampling.BICUBIC)), 0, 1)[..., None]
    at = heat * (len(_STOPS) - 1)
    low = np.minimum(at.astype(int), len(_STOPS) - 2)
    colour = _STOPS[low[..., 0]] + (at - low) * (_STOPS[low[..., 0] + 1] - _STOPS[low[..., 0]])
    weight = 0.25 + 0.4 * heat
    return np.asarray(np.rint(image * (1 - weight) + colour * weight), np.uint8)


def encode(image: NDArray[np.uint8], height: int) -> bytes:
    """Return a JPEG of uint8 [H, W, 3], scaled to `height` pixels."""
    picture = Image.fromarray(image)
    if picture.height != height:
        enlarged = height >= 2 * picture.height
        filter = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        picture = picture.resize((round(picture.width * height / picture.height), height), filter)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
