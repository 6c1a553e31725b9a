"""Where a network looks: class activation maps and squeeze-and-excitation gates.

The network ends in a global average pool and one linear layer, so the logit of a class is the mean
over the last feature map of that map times the classifier's row, plus the bias: the product at each
place is exactly its part of the logit (CAM, Zhou et al. 2016, equation 2). No gradient is needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..engines.base import Engine
from ..runtimes.base import CamRuntime, Runtime

ClassMaps = Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]
"""uint8 [N, S, S, 3] -> logits [N, K], and of each class its map, float32 [N, K, h, w]."""

_STOPS = np.array(
    [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]],
    np.float64,
)
"""Colours of matplotlib's "inferno" at equal distances."""


def classifier(engine: Engine) -> NDArray[np.float32]:
    """Return the classifier's rows [K, C] that `predict` uses."""
    state = engine.state_dict()
    return np.asarray((state.ema or state.model)["fc.weight"])


def maps_of(model: Runtime) -> ClassMaps | None:
    """Return what gives the maps of every class; None for an artifact exported without them."""
    if isinstance(model, Engine):
        rows, activations = classifier(model), model.activations

        def maps(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
            found = activations(images)
            products = np.einsum("kc,nchw->nkhw", rows, found.features, optimize=True)
            return found.logits, np.asarray(products, np.float32)

        return maps
    if isinstance(model, CamRuntime) and model.artifact.with_cam:
        return model.class_activation_maps
    return None


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
