"""The description of a trained model: architecture, class names, and the input it expects."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..errors import UserError
from ..schema import checked, from_dict
from .architecture import Architecture, activation_bytes

Interpolation = Literal["bilinear", "bicubic"]

ImageSize = Annotated[int, Field(ge=32, le=4096)]
CropRatio = Annotated[float, Field(gt=0, le=1)]
Mean = Annotated[float, Field(ge=-1e4, le=1e4)]
Std = Annotated[float, Field(ge=1e-4, le=1e4)]

MAX_RESIZED = 8192
"""Longest short side of an image before the centre crop, pixels."""
MAX_ACTIVATION_BYTES = 3 << 30
"""Of one image in any one block: enough for the family at 2048 px."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@checked("input")
class InputSpec:
    """The evaluation preprocessing, kept with the model in every file and export.

    Resize, crop, then `(pixel / 255 - mean) / std`. Engines and runtimes receive uint8 pixels and
    do only the last part.
    """

    image_size: ImageSize = 224
    """Side of the network's square input, pixels."""
    crop_ratio: CropRatio = 0.875
    """The short side is resized to `image_size / crop_ratio`, then the centre is cropped."""
    interpolation: Interpolation = "bicubic"
    resize: Literal["short", "stretch", "original"] = "short"
    """`short` keeps the aspect ratio; `stretch` resizes to a square (the original zoo's 310
    flow); `original` is `short` by OpenCV's bilinear filter, not antialiased (its evaluation)."""
    mean: tuple[Mean, Mean, Mean] = IMAGENET_MEAN
    std: tuple[Std, Std, Std] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.image_size / self.crop_ratio > MAX_RESIZED:
            raise UserError(
                f"crop ratio: expected {self.image_size / MAX_RESIZED:.3g} or more for "
                f"{self.image_size} px, got {self.crop_ratio:.3g}: images would be resized to more "
                f"than {MAX_RESIZED} px"
            )


@checked("")
class ModelSpec:
    """Everything needed to use a set of weights."""

    architecture: Architecture
    class_names: tuple[str, ...]
    """Name of each class index, as stored at training."""
    input: InputSpec = Field(default_factory=InputSpec)

    def __post_init__(self) -> None:
        names, classes = len(self.class_names), self.architecture.num_classes
        if names != classes:
            raise UserError(f"class_names: expected {classes}, one for each class, got {names}")
        needed = activation_bytes(self.architecture, self.input.image_size)
        if needed > MAX_ACTIVATION_BYTES:
            raise UserError(
                f"the network takes {needed / 1e9:.3g} GB for one image of "
                f"{self.input.image_size} px, more than the {MAX_ACTIVATION_BYTES / 1e9:.3g} GB "
                "that a model of this family may take"
            )

    @property
    def places(self) -> int:
        """Side of the last feature map: five halvings, each rounded up."""
        return -(-self.input.image_size // 32)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> ModelSpec:
        """Build one from what `to_dict` gave. Raises UserError naming the field that is wrong."""
        return from_dict(cls, data, "model")


def parse_spec(data: Any, file: Path) -> ModelSpec:
    """`ModelSpec.from_dict` whose error names the file that `data` was read from."""
    try:
        return ModelSpec.from_dict(data)
    except UserError as error:
        raise UserError(
            f"{file} does not describe a model of this package ({error}); expected what "
            "`seresnext train` or `seresnext convert` writes"
        ) from None
