"""What an artifact says about itself: one JSON text inside it, the same in every format."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..model.spec import ModelSpec
from ..schema import checked, from_dict

METADATA_KEY = "seresnext"
"""Name of the entry that holds the JSON."""
INPUT_NAME = "pixel_values"
OUTPUT_NAME = "logits"

ArtifactPrecision = Literal["fp32", "fp16", "int8"]


@checked("")
class Artifact:
    """An exported model without its weights."""

    spec: ModelSpec
    source_sha256: str
    """Of the `model.safetensors` it was made from."""
    version: str
    """Of this package, when it was exported."""
    precision: ArtifactPrecision = "fp32"
    with_preprocessing: bool = False
    """True: `pixel_values` is uint8 [B, S, S, 3], RGB. False: float32 [B, 3, S, S], normalised."""

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "spec": self.spec.to_dict()})

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of `pixel_values` without the batch dimension."""
        side = self.spec.input.image_size
        return (side, side, 3) if self.with_preprocessing else (3, side, side)

    def check_shapes(self, source: Path, found_input: Any, found_output: Any) -> None:
        """Raise UserError unless the network's shapes (without batch) are those described."""
        classes = (self.spec.architecture.num_classes,)
        for what, found, expected in (
            (INPUT_NAME, found_input, self.input_shape),
            (OUTPUT_NAME, found_output, classes),
        ):
            if tuple(found) != expected:
                raise UserError(
                    f"{source} does not hold what its metadata says: {what} is {list(found)} per "
                    f"image, expected {list(expected)}; export it again"
                )


def refuse_foreign_operators(found: Iterable[str], known: frozenset[str], source: Path) -> None:
    """Raise UserError unless every operator is one that exports have.

    What is left can neither loop, nor branch, nor load code.
    """
    foreign = sorted(set(found) - known)
    if foreign:
        raise UserError(
            f"{source} has operators that no export of this package has "
            f"({', '.join(foreign[:5])}); refused"
        )


def read_artifact(text: str | None, source: Path) -> Artifact:
    """The artifact's description of itself. Raises UserError where it is missing or wrong."""
    if not text:
        raise UserError(
            f"{source} carries no metadata of this package (classes, preprocessing); expected an "
            "artifact written by `seresnext export`"
        )
    try:
        artifact = from_dict(Artifact, json.loads(text), METADATA_KEY)
    except (ValueError, RecursionError, UserError) as error:
        raise UserError(f"{source}: its metadata is damaged ({error}); export it again") from None
    inputs = artifact.spec.input
    if not (32 <= inputs.image_size <= 4096 and 0 < inputs.crop_ratio <= 1 and min(inputs.std) > 0):
        raise UserError(f"{source}: its metadata describes an impossible input: {inputs}")
    return artifact
