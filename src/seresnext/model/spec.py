"""What a finished model is besides its weights: network, classes, and the input it expects."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .architecture import Architecture

Interpolation = Literal["bilinear", "bicubic"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to use a set of weights."""

    architecture: Architecture
    class_names: tuple[str, ...]
    """Index -> name: stored once at training, never derived again."""
    input: InputSpec = field(default_factory=InputSpec)

    def __post_init__(self) -> None:
        assert len(self.class_names) == self.architecture.num_classes

    def to_dict(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture.to_dict(),
            "class_names": list(self.class_names),
            "input": asdict(self.input),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelSpec:
        inputs: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data["input"].items()
        }
        return cls(
            Architecture.from_dict(data["architecture"]),
            tuple(data["class_names"]),
            InputSpec(**inputs),
        )
