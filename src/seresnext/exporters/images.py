"""The images on which an export is compared and calibrated."""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..batch import Batch
from ..config import DataConfig, changed, run_data
from ..data.loader import Reader, Share, eval_batches
from ..data.sources import (
    Part,
    Source,
    Subset,
    evaluation_part,
    image_files,
    image_list,
    open_part,
    split_parts,
)
from ..errors import UserError
from ..model.spec import ModelSpec
from .options import ExportOptions

_log = logging.getLogger(__name__)

BATCH_SIZE = 32
CALIBRATION_IMAGES = 300
"""More images hardly change the ranges of activations."""


@dataclass(frozen=True)
class Images:
    """Images to compare or calibrate on."""

    origin: str
    """Their number and folder, for people."""
    source: Source | None
    """None: synthetic images."""
    data: DataConfig = field(default_factory=DataConfig)
    """How they are read."""
    labelled: bool = False

    def batches(self, spec: ModelSpec, workers: int) -> Generator[Batch, None, None]:
        """The images, preprocessed as for evaluation; unreadable ones are masked."""
        if self.source is None:
            return _synthetic(spec.input.image_size)
        reader = Reader(self.source, replace(self.data, workers=workers, on_bad_image="skip"))
        return eval_batches(reader, spec.input, Share(BATCH_SIZE))


def comparison_images(model: Path, spec: ModelSpec, options: ExportOptions) -> Images:
    """`options.data`; else the run's validation data; else `calibration`; else synthetic images.

    Of labelled ones at most `options.max_images`.
    """
    data = _reading(model, options)
    part = evaluation_part(options.data, data) if options.data else recorded_parts(data)[1]
    if part is not None:
        found = open_part(
            part,
            class_names=spec.class_names,
            allow_empty_classes=True,
            follow_links=data.follow_links,
        )
        source = spread(found, options.max_images)
        return Images(f"{len(source)} images of {part}", source, data, labelled=True)
    if options.calibration:
        return calibration_images(model, options)
    if gone := _gone(data):
        _log.warning("%s: compared on synthetic images; give --data DIR for real ones", gone)
    return Images(f"{BATCH_SIZE} synthetic images (no --data was given)", None)


def calibration_images(model: Path, options: ExportOptions) -> Images:
    """`options.calibration`; else the run's training data; else `options.data`; else UserError."""
    data = _reading(model, options)
    part = None if options.calibration else recorded_parts(data)[0]
    folder = options.calibration or options.data
    if part is not None:
        found = open_part(part, allow_empty_classes=True, follow_links=data.follow_links)
    elif folder is not None:
        found = image_list(image_files([folder], follow_links=data.follow_links))
    else:
        gone = _gone(data)
        raise UserError(
            "int8 needs typical images to measure ranges on: give --calibration DIR"
            + f" ({gone})" * bool(gone)
        )
    source = spread(found, CALIBRATION_IMAGES)
    return Images(f"{len(source)} images of {part or folder}", source, data)


def recorded_parts(data: DataConfig) -> tuple[Part | None, Part | None]:
    """A run's training and validation images; (None, None) if they are no longer there."""
    try:
        return split_parts(data)
    except UserError:
        return None, None


def _gone(data: DataConfig) -> str:
    """Return the words for a run whose images are no longer there; empty for no run."""
    paths = [p for p in (data.root, data.train, data.val) if p]
    return f"the run's images are not there ({', '.join(paths)})" if paths else ""


def _reading(model: Path, options: ExportOptions) -> DataConfig:
    """How images are found and read: as by the run, unless the options say otherwise."""
    return changed(
        run_data(model), follow_links=options.follow_links, max_pixels=options.max_pixels
    )


def spread(source: Source, most: int) -> Source:
    """At most `most` images at even distances, so that every class is included; 0 means all."""
    count = min(most, len(source)) or len(source)
    return Subset(source, np.arange(count) * len(source) // count)


def _synthetic(side: int) -> Generator[Batch, None, None]:
    """One batch of coloured noise of four scales, the same every time."""
    rng = np.random.default_rng(0)
    images = np.zeros((BATCH_SIZE, side, side, 3))
    for cells in (2, 4, 16, side):
        noise = rng.normal(0, 40, (BATCH_SIZE, cells, cells, 3))
        steps = np.arange(side) * cells // side
        images += noise[:, steps][:, :, steps]
    pixels = np.clip(images + 128, 0, 255).astype(np.uint8)
    labels, index = np.zeros(BATCH_SIZE, np.int32), np.arange(BATCH_SIZE)
    ones = np.ones(BATCH_SIZE, np.float32)
    yield Batch(pixels, labels, labels, ones, ones > 0, index)
