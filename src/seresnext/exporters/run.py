"""Checkpoint -> artifact, compared with the engine before it takes its place."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import __version__
from ..batch import Batch
from ..config import EngineConfig, EngineName
from ..engines.base import create_engine
from ..errors import UserError
from ..model.saved_model import WEIGHTS_FILE, load_model
from ..runtimes import base
from ..runtimes.artifact import Artifact, ArtifactPrecision
from ..runtimes.base import Runtime
from .gate import TOLERANCES, Comparison, compare
from .images import Images, calibration_images, comparison_images

Format = Literal["onnx", "openvino", "mindir", "air", "torch"]

SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "mindir": ".mindir",
    "air": ".air",
    "torch": ".pt2",
}
_PRECISIONS: dict[Format, tuple[ArtifactPrecision, ...]] = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
    "mindir": ("fp32",),
    "air": ("fp32",),
    "torch": ("fp32", "fp16"),
}


@dataclass(frozen=True)
class Options:
    """What to write, and what to compare it on."""

    precision: ArtifactPrecision = "fp32"
    """fp16 halves the file and runs in the device's half precision; int8 also quantises."""
    calibration: Path | None = None
    """int8: folder of typical images, labelled or not. By default the run's own training data."""
    data: Path | None = None
    """Labelled images for the comparison: a folder with val/<class>/, or with <class>/ itself. By
    default the run's own validation data."""
    with_preprocessing: bool = False
    """Take uint8 [B, S, S, 3] and normalise in the graph."""
    max_drop: float = 0.5
    """int8: points of accuracy (without labels, of agreement) that may be lost."""
    max_images: int = 1000
    """Images to compare on, spread evenly over the folder; 0 means all."""
    engine: EngineName = "torch"
    """The reference."""
    device: str = "auto"
    """Where the reference computes; the artifact runs on the CPU."""
    workers: int = 0
    """Decoding threads; 0 means one per core."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares."""

    files: tuple[Path, ...]
    bytes: int
    """Of all files together."""
    format: Format
    artifact: Artifact
    versions: str
    """Of the format and of what wrote it."""
    images: str
    """What the comparison was made on."""
    calibration: str
    """What gave the ranges of int8; empty otherwise."""
    in_float: tuple[str, ...]
    """int8: blocks left in float because they cost accuracy."""
    comparison: Comparison | None
    """None for AIR, which only Ascend's own tools read."""

    def to_dict(self) -> dict[str, Any]:
        return {
            **{k: v for k, v in vars(self).items() if k not in ("artifact", "comparison")},
            "files": [str(path) for path in self.files],
            "precision": self.artifact.precision,
            "with_preprocessing": self.artifact.with_preprocessing,
            "source_sha256": self.artifact.source_sha256,
            "comparison": self.comparison.to_dict() if self.comparison else None,
        }


def export(model: Path, format: Format, out: Path, options: Options | None = None) -> ExportReport:
    """Write `model` (a run or model folder) to `out` as `format`.

    The artifact is written beside `out` first, compared with the engine there, and moved into
    place only if it is within the tolerance of its precision. Raises UserError otherwise, saying
    what differs; an earlier file at `out` is then as it was.
    """
    options = options or Options()
    _check(format, out, options)
    folder = base.model_folder(model)
    spec, weights = load_model(folder)
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    artifact = Artifact(spec, digest, __version__, options.precision, options.with_preprocessing)
    images = comparison_images(model, spec, options.data, options.calibration, options.max_images)
    settings = EngineConfig(name=options.engine, device=options.device)
    engine = create_engine(spec, weights, settings)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            job = _Job(format, artifact, weights, engine, images, options, beside / out.name)
            return job.run(model, out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        engine.close()


def _check(format: Format, out: Path, options: Options) -> None:
    """Refuse what cannot work before anything is loaded."""
    if format not in SUFFIXES:
        raise UserError(f"--format: expected one of {', '.join(SUFFIXES)}, got {format!r}")
    if out.suffix != SUFFIXES[format]:
        raise UserError(f"--out: {format} files end in {SUFFIXES[format]}, got {out}")
    if options.precision not in _PRECISIONS[format]:
        raise UserError(
            f"--precision: {format} can be {' or '.join(_PRECISIONS[format])}, "
            f"got {options.precision!r}"
        )
    if options.with_preprocessing and format in ("mindir", "air"):
        raise UserError(f"--with-preprocessing: not for {format}; onnx, openvino and torch have it")
    if options.max_drop < 0 or options.max_images < 0:
        raise UserError("--max-drop and --max-images: expected 0 or more")


@dataclass(frozen=True)
class _Job:
    """One export that can begin."""

    format: Format
    artifact: Artifact
    weights: Mapping[str, np.ndarray]
    engine: Runtime
    images: Images
    options: Options
    path: Path
    """Where the artifact is made: alone in a folder of its own."""

    def run(self, model: Path, out: Path) -> ExportReport:
        in_float: tuple[str, ...] = ()
        calibration = ""
        if self.format == "air":
            module: Any = base.load("exporters.mindir")
            module.export_air(self.artifact.spec, self.weights, self.path)
            versions = "AIR of MindSpore"
        else:
            writer = base.writer(self.format)
            versions = writer.versions()
            network = writer.build(self.artifact, self.weights)
            if self.options.precision == "int8":
                chosen = calibration_images(model, self.options.data, self.options.calibration)
                network, in_float = self._quantise(network, chosen)
                calibration = chosen.origin
            writer.write(network, self.artifact, self.path)
        comparison = None if self.format == "air" else self._compare(out)
        # The .xml last: until it is there, the old one refuses the new weights.
        made = sorted(self.path.parent.iterdir(), key=lambda file: file.name == out.name)
        size = sum(file.stat().st_size for file in made)
        for file in made:
            os.replace(file, out.parent / file.name)
        files = tuple(out.parent / file.name for file in made)
        return ExportReport(
            files,
            size,
            self.format,
            self.artifact,
            versions,
            self.images.origin,
            calibration,
            in_float,
            comparison,
        )

    def _compare(self, out: Path) -> Comparison:
        """Raises UserError when the artifact is outside its tolerance."""
        with closing(self._open()) as runtime, closing(self._batches()) as batches:
            result = compare(self.engine, runtime, batches, labelled=self.images.labelled)
        problems = result.problems(self.artifact.precision, self.options.max_drop)
        if problems:
            kept = "; the earlier file is as it was" if out.exists() else ""
            raise UserError(
                f"{out} was not written, because it does not answer as the {result.engine} does "
                f"on {self.images.origin}: {'; '.join(problems)}{kept}"
            )
        return result

    def _open(self) -> Runtime:
        # This program was written a moment ago by us, so it may run.
        own = {"run_program": True} if self.format == "torch" else {}
        runtime: Runtime = base.runtime_class(self.format)(self.path, device="cpu", **own)
        return runtime

    def _batches(self) -> Generator[Batch, None, None]:
        return self.images.batches(self.artifact.spec, self.options.workers)

    def _quantise(self, network: Any, chosen: Images) -> tuple[Any, tuple[str, ...]]:
        module: Any = base.load("exporters.int8")
        pixels, labels = self._pixels(self.images)
        calibration, _ = self._pixels(chosen)
        reference = self.engine.predict(pixels)
        targets = labels if self.images.labelled else reference.argmax(1)
        writer = base.writer(self.format)

        def logits(candidate: Any) -> np.ndarray:
            writer.write(candidate, self.artifact, self.path)
            with closing(self._open()) as runtime:
                return runtime.predict(pixels)

        def points(answers: np.ndarray) -> float:
            return 100 * float((answers.argmax(1) == targets).mean())

        result = module.quantise(
            network,
            self.artifact.spec,
            calibration,
            module.Trial(logits, reference, points),
            self.options.max_drop,
        )
        return result.model, result.in_float

    def _pixels(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """All of them, uint8 [N, S, S, 3], and their labels."""
        with closing(images.batches(self.artifact.spec, self.options.workers)) as batches:
            parts = [(b.images[b.mask], b.labels[b.mask]) for b in batches]
        pixels, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        if not len(pixels):
            raise UserError(f"none of {images.origin} could be read")
        return pixels, labels


# Report ------------------------------------------------------------------------------------


def print_report(report: ExportReport) -> None:
    """The gate's table, for people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    artifact, result = report.artifact, report.comparison
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_row("written", ", ".join(map(str, report.files)), f"{report.bytes / 1e6:.1f} MB")
    wanted = "uint8 [B, S, S, 3]" if artifact.with_preprocessing else "float32 [B, 3, S, S]"
    size = artifact.spec.input.image_size
    table.add_row("input", f"pixel_values: {wanted}, S = {size}", artifact.precision)
    table.add_row("made with", report.versions, "")
    if report.calibration:
        table.add_row("calibrated on", report.calibration, "")
        left = ", ".join(report.in_float) or "nothing but squeeze-and-excitation"
        table.add_row("left in float", left, "")
    if result is None:
        table.add_row("compared", "not at all: AIR is read by Ascend's tools only", "")
    else:
        sizes = " and ".join(map(str, result.batch_sizes))
        limit = TOLERANCES[artifact.precision].relative
        table.add_row("compared with", result.engine, "")
        table.add_row("on", f"{report.images}, batch sizes {sizes}", "")
        largest = f"{result.difference:.2e}, relative {result.relative:.2e} (tolerance {limit:.0e})"
        table.add_row("logit difference", largest, "ok")
        same = f"{result.agreement:.2%} ({result.flips} of {result.images} differ"
        same += f", {result.ties} of them ties)" if result.ties else ")"
        table.add_row("same top-1", same, "ok")
        if result.engine_metrics and result.artifact_metrics:
            pair = (result.engine_metrics, result.artifact_metrics)
            accuracy = "top-1 {:.2%} -> {:.2%}".format(*(m.top1 for m in pair))
            accuracy += ", top-5 {:.2%} -> {:.2%}".format(*(m.top5 for m in pair))
            table.add_row("accuracy", accuracy, "ok")
    Console().print(table)
