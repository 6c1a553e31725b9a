"""The options of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import EngineName
from ..runtimes.artifact import INPUT_NAME
from ..runtimes.formats import ArtifactPrecision


@dataclass(frozen=True)
class ExportOptions:
    """What to write, and what to compare it on."""

    format: str | None = None
    """Name of the format. By default the suffix of the file decides."""
    precision: ArtifactPrecision | None = None
    """fp16 halves the file and runs in the device's half precision; int8 also quantises. By default
    fp32; web is fp16, unless that is outside the tolerance."""
    calibration: Path | None = None
    """int8: folder of typical images, labelled or not. By default the run's own training data."""
    data: Path | None = None
    """Labelled images for the comparison: a folder with val/<class>/, or with <class>/ itself. By
    default the run's own validation data."""
    follow_links: bool | None = None
    """Follow links in these folders. By default as the run did."""
    max_pixels: int | None = None
    """Images with more pixels are not read. By default the run's limit."""
    with_cam: bool = False
    """Add the output class_activation_maps [B, K, h, w], where the network sees each class
    (onnx, openvino)."""
    with_preprocessing: bool = False
    """Take uint8 [B, S, S, 3] and normalise in the graph."""
    batch_size: int = 0
    """Take exactly so many images at once, for tools that need a fixed shape; 0 means any number
    (AIR: 1)."""
    input_name: str = INPUT_NAME
    """Name of the network's input."""
    max_drop: float = 0.5
    """int8: points of accuracy (without labels, of agreement) that may be lost; blocks that cost
    more stay in float."""
    max_images: int = 1000
    """Images to compare on, spread evenly over the folder; 0 means all."""
    engine: EngineName = "torch"
    """The reference."""
    device: str = "auto"
    """Where the reference computes; the artifact runs on the CPU."""
    ort: Path | None = None
    """web: the npm package onnxruntime-web, as a folder or .tgz. By default npm downloads it."""
    workers: int = 0
    """Decoding threads; 0 means one per core."""
