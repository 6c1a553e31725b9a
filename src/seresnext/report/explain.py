"""Activation maps of single images, for `seresnext explain`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import DataConfig
from ..errors import UserError, listed
from ..files import replacing
from ..predict import read_image, softmax
from ..runtimes.base import Runtime
from .maps import encode, maps_of, overlay

_BATCH = 8
_SIDE = 384
"""Height of a picture, pixels; smaller images are enlarged."""


@dataclass(frozen=True)
class Explanation:
    """One image with the map of one class, or why it could not be read."""

    file: Path
    error: str = ""
    class_name: str = ""
    probability: float = 0.0
    image: NDArray[np.uint8] | None = None
    """What the network saw, [S, S, 3]."""
    activation: NDArray[np.float32] | None = None
    """The parts [h, w] of the class's logit."""


def explain(
    model: Runtime,
    files: Iterable[Path],
    class_name: str = "",
    max_pixels: int = DataConfig().max_pixels,
) -> Iterator[Explanation]:
    """Yield an explanation per image, in order, of `class_name` or of the most probable class.

    Raises UserError for an artifact without maps, a class that the model does not have, and a
    network whose last feature map has a single place.
    """
    maps = maps_of(model)
    if maps is None:
        raise UserError(
            "this artifact answers logits only; explain the run or model folder that it was made "
            "from, or export it to ONNX or OpenVINO with --with-cam"
        )
    names = model.spec.class_names
    if class_name and class_name not in names:
        raise UserError(f"--class-name: no class {class_name!r}; expected one of {listed(names)}")
    items = iter(files)
    while chosen := list(itertools.islice(items, _BATCH)):
        pixels = [read_image(file, model, max_pixels) for file in chosen]
        images = [image for image in pixels if not isinstance(image, str)]
        found = maps(np.stack(images)) if images else None
        position = 0
        for file, image in zip(chosen, pixels, strict=True):
            if isinstance(image, str) or found is None:
                yield Explanation(file, str(image))
                continue
            probabilities = softmax(found[0][position : position + 1])[0]
            number = names.index(class_name) if class_name else int(probabilities.argmax())
            activation = found[1][position, number]
            if activation.size == 1:
                raise UserError(
                    f"at {image.shape[0]} pixels the last feature map has a single place; "
                    "expected a network trained at 64 pixels or more"
                )
            yield Explanation(
                file, "", names[number], float(probabilities[number]), image, activation
            )
            position += 1


def write_picture(folder: Path, explanation: Explanation, used: set[str]) -> Path:
    """Write a JPEG, the image beside its map; a name in `used` gets a number. Raises UserError."""
    assert explanation.image is not None
    assert explanation.activation is not None
    stem = explanation.file.stem
    names = itertools.chain([f"{stem}.jpg"], (f"{stem}-{n}.jpg" for n in itertools.count(2)))
    name = next(name for name in names if name not in used)
    used.add(name)
    over = overlay(explanation.image, explanation.activation)
    both = np.concatenate([explanation.image, over], axis=1)
    with replacing(folder / name) as temporary:
        temporary.write_bytes(encode(both, _SIDE))
    return folder / name
