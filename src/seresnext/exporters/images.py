"""The images on which an export is compared and calibrated."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..batch import Batch
from ..config import DataConfig, load_config
from ..data.loader import Reader, Share, eval_batches
from ..data.sources import (
    Source,
    Subset,
    evaluation_path,
    image_files,
    image_list,
    open_source,
    split_paths,
)
from ..errors import UserError
from ..model.saved_model import CONFIG_FILE
from ..model.spec import ModelSpec
from .options import ExportOptions

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
    labelled: bool = False

    def batches(self, spec: ModelSpec, workers: int) -> Generator[Batch, None, None]:
        """The images, preprocessed as for evaluation; unreadable ones are masked."""
        if self.source is None:
            return _synthetic(spec.input.image_size)
        reader = Reader(self.source, DataConfig(workers=workers, on_bad_image="skip"))
        return eval_batches(reader, spec.input, Share(BATCH_SIZE))


def comparison_images(model: Path, spec: ModelSpec, options: ExportOptions) -> Images:
    """`options.data`; else the run's validation data; else `calibration`; else synthetic images.

    Of labelled ones at most `options.max_images`.
    """
    folder = evaluation_path(options.data) if options.data else recorded_data(model)[1]
    if folder is not None:
        found = open_source(folder, class_names=spec.class_names, allow_empty_classes=True)
        source = spread(found, options.max_images)
        return Images(f"{len(source)} images of {folder}", source, labelled=True)
    if options.calibration:
        return calibration_images(model, options)
    return Images(f"{BATCH_SIZE} synthetic images (no --data was given)", None)


def calibration_images(model: Path, options: ExportOptions) -> Images:
    """`options.calibration`; else the run's training data; else `options.data`; else UserError."""
    folder = options.calibration or recorded_data(model)[0] or options.data
    if folder is None:
        raise UserError("int8 needs typical images to measure ranges on: give --calibration DIR")
    source = spread(image_list(image_files([folder])), CALIBRATION_IMAGES)
    return Images(f"{len(source)} images of {folder}", source)


def recorded_data(model: Path) -> tuple[Path | None, Path | None]:
    """The run's training and validation data; (None, None) if they are no longer there."""
    run = model.parent.parent if model.parent.name == "checkpoints" else model
    config = run / CONFIG_FILE
    if not ((run / "model").is_dir() or (run / "checkpoints").is_dir()) or not config.is_file():
        return None, None
    data = load_config(config).data
    try:
        return split_paths(data)
    except UserError:
        return None, None


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
