"""What a finished model is besides its weights: network, classes, and the input it expects."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from ..errors import UserError
from ..schema import checked, from_dict
from .architecture import Architecture

Interpolation = Literal["bilinear", "bicubic"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@checked("input")
class InputSpec:
    """The evaluation preprocessing. It travels with the model through every export.

    Resize, crop, then `(pixel / 255 - mean) / std`. Engines and runtimes do only the last part;
    the pixels they get are uint8.
    """

    image_size: int = 224
    """Side of the square the network sees, pixels."""
    crop_ratio: float = 0.875
    """Short side is resized to `image_size / crop_ratio`, then the centre is cropped."""
    interpolation: Interpolation = "bicubic"
    resize: Literal["short", "stretch"] = "short"
    """`short` keeps the aspect ratio; `stretch` squeezes to a square first (the original zoo's
    310 flow)."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@checked("")
class ModelSpec:
    """Everything needed to use a set of weights."""

    architecture: Architecture
    class_names: tuple[str, ...]
    """Index -> name: stored once at training, never derived again."""
    input: InputSpec = Field(default_factory=InputSpec)

    def __post_init__(self) -> None:
        names, classes = len(self.class_names), self.architecture.num_classes
        if names != classes:
            raise UserError(f"class_names: expected {classes}, one for each class, got {names}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> ModelSpec:
        """Build one from what `to_dict` gave. Raises UserError naming the field that is wrong."""
        return from_dict(cls, data, "model")
