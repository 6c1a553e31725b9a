"""What the data pipeline hands to an engine for one step: plain numpy, few shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .errors import UserError

MAX_BATCH_BYTES = 8 << 30
"""Of pixels: 57,000 images at 224 px."""


def check_batch_size(images: int, side: int, name: str) -> None:
    """Raise UserError, naming the option `name`, for a batch of no or far too many images."""
    most = MAX_BATCH_BYTES // (3 * side**2)
    if not 1 <= images <= most:
        raise UserError(f"{name}: expected 1 to {most} images of {side} px, got {images}")


@dataclass(frozen=True)
class Batch:
    """One step's input on one device. `B` is the per-device batch size and never varies.

    Two images may be blended into one row (mixup, cutmix); such a row has two labels. All
    randomness that both engines must share was drawn before the batch was made: the pixels
    are already augmented and blended, and `seed` feeds whatever noise the model draws.
    """

    images: NDArray[np.uint8]
    """uint8 [B, H, W, 3], RGB."""
    labels: NDArray[np.int32]
    """int32 [B], class index."""
    mixed_labels: NDArray[np.int32]
    """int32 [B], class index of the image blended in; equal to `labels` where none was."""
    mix: NDArray[np.float32]
    """float32 [B], weight of `labels` in the loss; `1 - mix` is the weight of `mixed_labels`."""
    mask: NDArray[np.bool_]
    """bool [B], False for rows that carry no image (padding, or an image that was unreadable)."""
    index: NDArray[np.int64]
    """int64 [B], position of the image in its source; -1 where there is none."""
    seed: int = 0
    """Seed of this step's noise (stochastic depth, dropout), drawn from (run seed, step)."""

    teacher: NDArray[np.float32] | None = None
    """float32 [B, K], the logits of `loss.teacher` for `images`; None without one."""

    def __len__(self) -> int:
        return len(self.images)

    def split(self, parts: int) -> list[Batch]:
        """Cut into `parts` equal pieces, in order. `B` must divide by `parts`."""
        size = len(self) // parts
        assert size * parts == len(self), f"a batch of {len(self)} does not divide by {parts}"
        names = ("images", "labels", "mixed_labels", "mix", "mask", "index", "teacher")
        arrays = {n: array for n in names if (array := getattr(self, n)) is not None}
        return [
            replace(
                self,
                seed=self.seed + k,
                **{n: array[k * size : (k + 1) * size] for n, array in arrays.items()},
            )
            for k in range(parts)
        ]
