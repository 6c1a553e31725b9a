"""The metadata of an artifact: one JSON text inside the file, the same in every format.

Also the checks that every runtime makes of a file before its framework reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import UserError
from ..files import parse_json
from ..model.architecture import MAX_PARAMETERS
from ..model.spec import ModelSpec
from ..schema import checked, from_dict
from .formats import ArtifactPrecision
from .normalise import normalise

METADATA_KEY = "seresnext"
"""Name of the entry that holds the JSON."""
INPUT_NAME = "pixel_values"
OUTPUT_NAME = "logits"
CAM_NAME = "class_activation_maps"
"""Optional output, float32 [B, K, h, w]: the parts of each class's logit at each place of the last
feature map. Their mean over the places is the logit without the classifier's bias."""


INPUT_NAMES = "[A-Za-z_][A-Za-z0-9_]{0,63}"
MAX_BATCH = 1024
"""Most images in the fixed batch of an artifact."""
_MAX_FILE_BYTES = 4 * MAX_PARAMETERS + (64 << 20)
_MAX_WINDOW = 16
_OPERATORS_PER_BLOCK = 200
"""int8 in OpenVINO has the most, because constants count."""


@checked("")
class Artifact:
    """An exported model without its weights."""

    spec: ModelSpec
    source_sha256: str
    """SHA-256 of the `model.safetensors` it was made from."""
    version: str
    """Version of this package that exported it."""
    precision: ArtifactPrecision = "fp32"
    with_preprocessing: bool = False
    """True: the input is uint8 [B, S, S, 3], RGB. False: float32 [B, 3, S, S], normalised."""
    batch_size: Annotated[int, Field(ge=0, le=MAX_BATCH)] = 0
    """B, where the network takes no other; 0: any number of images."""
    input_name: Annotated[str, Field(pattern=f"^{INPUT_NAMES}$")] = INPUT_NAME
    with_cam: bool = False
    """True: the second output is `class_activation_maps`, float32 [B, K, h, w]."""

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "spec": self.spec.to_dict()})

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input without the batch dimension."""
        side = self.spec.input.image_size
        return (side, side, 3) if self.with_preprocessing else (3, side, side)

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Output -> its shape without the batch dimension."""
        classes = self.spec.architecture.num_classes
        maps = {CAM_NAME: (classes, self.spec.places, self.spec.places)} if self.with_cam else {}
        return {OUTPUT_NAME: (classes,), **maps}

    def pixel_values(self, images: NDArray[Any]) -> NDArray[Any]:
        """What the network takes for these images, uint8 [B, S, S, 3]."""
        if self.with_preprocessing:
            return np.ascontiguousarray(images)
        return normalise(images, self.spec.input)

    def check_shapes(self, source: Path, found: Mapping[str, tuple[int, ...]]) -> None:
        """Raise UserError unless the network's shapes by name (without batch) are as described."""
        for name, expected in {self.input_name: self.input_shape, **self.output_shapes}.items():
            if found.get(name) != expected:
                raise UserError(
                    f"{source} does not hold what its metadata says: {name} is "
                    f"{list(found.get(name, ()))} per image, expected {list(expected)}; export it "
                    "again"
                )


def read_file(path: Path, most: int = _MAX_FILE_BYTES) -> bytes:
    """The whole file. Raises UserError if it has more than `most` bytes."""
    try:
        if path.stat().st_size > most:
            raise UserError(
                f"{path} is larger than any network of this family ({most >> 20} MiB); refused"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read model {path}: {error.strerror}") from None


def check_operators(
    found: Sequence[str], known: frozenset[str], artifact: Artifact, source: Path
) -> None:
    """Raise UserError unless all operators are among those that exports have, and not too many.

    None of those can loop, branch, or load code.
    """
    most = _OPERATORS_PER_BLOCK * (sum(artifact.spec.architecture.layers) + 1)
    if len(found) > most:
        raise UserError(
            f"{source} has {len(found)} operators, more than the network in its metadata can have "
            f"({most}); refused"
        )
    unknown = sorted(set(found) - known)
    if unknown:
        raise UserError(
            f"{source} has operators that no export of this package has "
            f"({', '.join(unknown[:5])}); refused"
        )


def check_windows(sizes: Iterable[int], source: Path) -> None:
    """Raise UserError for a kernel, stride or padding that no export has: it costs memory."""
    largest = max(sizes, default=0)
    if largest > _MAX_WINDOW:
        raise UserError(
            f"{source} is no usable network: it has a kernel, stride or padding of {largest}, and "
            f"this family at most {_MAX_WINDOW}"
        )


def read_artifact(text: str | None, source: Path) -> Artifact:
    """Parse an artifact's metadata. Raises UserError if it is missing or not valid."""
    if not text:
        raise UserError(
            f"{source} carries no metadata of this package (classes, preprocessing); expected an "
            "artifact written by `seresnext export`"
        )
    try:
        return from_dict(Artifact, parse_json(text, "its text"), METADATA_KEY)
    except UserError as error:
        raise UserError(f"{source}: its metadata is damaged ({error}); export it again") from None
