"""Export: write a model as an artifact, and keep it only if it predicts as the engine does."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..config import EngineConfig
from ..engines.base import create_engine
from ..errors import UserError
from ..files import folder_beside, replace_folder
from ..frameworks import load_module
from ..runtimes.artifact import INPUT_NAME, INPUT_NAMES, MAX_BATCH, Artifact
from ..runtimes.base import Runtime, open_artifact
from ..runtimes.formats import FORMATS, INT8_EXTRA, Format
from ..weights.trained import load_trained
from . import page
from .base import Exporter, load_exporter
from .comparison import Comparison, compare
from .images import Images, calibration_images, comparison_images
from .options import ExportOptions
from .report import ExportReport


def export(model: Path, out: Path, options: ExportOptions | None = None) -> ExportReport:
    """Write `model` (a run, checkpoint or model folder) to `out`.

    The artifact is made in a temporary folder beside `out`, compared there with the engine, and
    moved into place only if it is within the tolerance of its precision. Raises UserError
    otherwise, naming the differences; an earlier file at `out` is then unchanged.
    """
    options = options or ExportOptions()
    format = _check(out, options)
    if format.holds:
        out = out.resolve()  # "." has no name, and a link is followed
    runtime = page.runtime_files(options.ort) if format.holds else {}
    trained = load_trained(model)
    spec, weights = trained.spec, trained.weights
    digest = hashlib.sha256(trained.file.read_bytes()).hexdigest()
    precision = options.precision or format.precisions[0]
    artifact = Artifact(
        spec,
        digest,
        __version__,
        precision,
        options.with_preprocessing or bool(format.holds),
        options.batch_size,
        options.input_name,
        options.with_cam,
    )
    images = comparison_images(model, spec, options)
    calibration = calibration_images(model, options) if precision == "int8" else None
    engine = create_engine(spec, weights, EngineConfig(name=options.engine, device=options.device))
    with closing(engine), folder_beside(out) as temporary:
        job = _Job(format, artifact, options, engine, images, temporary / out.name)
        made = _make(job, weights, calibration)
        if made.problems and precision == "fp16" and not options.precision:
            job = replace(job, artifact=replace(artifact, precision="fp32"))
            made = replace(_make(job, weights, None), not_fp16="; ".join(made.problems))
        if made.problems:
            raise UserError(_refusal(job, made, out))
        if format.holds:
            page.write_page(job.out, job.artifact, runtime)
        size = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file())
        files = _move_into_place(temporary, out)
    return ExportReport(
        files=files,
        bytes=size,
        format=format.name,
        artifact=job.artifact,
        versions=job.exporter.versions() + (f", {page.PACKAGE}" if format.holds else ""),
        images=images.origin,
        calibration=calibration.origin if calibration else "",
        in_float=made.in_float,
        comparison=made.comparison,
        not_fp16=made.not_fp16,
    )


@dataclass(frozen=True)
class _Job:
    """What the steps of one export share."""

    format: Format
    artifact: Artifact
    options: ExportOptions
    engine: Runtime
    images: Images
    """For the comparison."""
    out: Path
    """What is made, alone in a temporary folder: a file, or a folder around one."""

    @property
    def inner(self) -> Format:
        """The format of the file with the network."""
        return FORMATS[self.format.holds] if self.format.holds else self.format

    @property
    def path(self) -> Path:
        """The file with the network."""
        return self.out / page.MODEL if self.format.holds else self.out

    @property
    def exporter(self) -> Exporter:
        return load_exporter(self.format)

    def open(self) -> Runtime:
        """The artifact at `path`, opened by the runtime that users get."""
        return open_artifact(self.inner, self.path, device="cpu", trusted=True)

    def read(self, images: Images) -> tuple[NDArray[Any], NDArray[Any]]:
        """All pixels, uint8 [N, S, S, 3], and labels, int32 [N]. Raises UserError if none."""
        with closing(images.batches(self.artifact.spec, self.options.workers)) as batches:
            parts = [(b.images[b.mask], b.labels[b.mask]) for b in batches]
        pixels, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        if not len(pixels):
            raise UserError(f"none of {images.origin} could be read")
        return pixels, labels


@dataclass(frozen=True)
class _Made:
    """A network that is written, and how it compares."""

    in_float: tuple[str, ...]
    comparison: Comparison | None
    problems: list[str]
    not_fp16: str = ""


def _check(out: Path, options: ExportOptions) -> Format:
    """The format to write. Raises UserError for options that do not fit it."""
    format = _format(out, options.format)
    if options.precision not in (None, *format.precisions):
        raise UserError(
            f"--precision: {format.name} can be {' or '.join(format.precisions)}, "
            f"got {options.precision!r}"
        )
    if options.with_preprocessing and not format.preprocessing:
        able = ", ".join(f.name for f in FORMATS.values() if f.preprocessing)
        raise UserError(f"--with-preprocessing: not for {format.name}; expected one of {able}")
    if options.with_cam and not format.class_activation:
        able = ", ".join(f.name for f in FORMATS.values() if f.class_activation)
        raise UserError(f"--with-cam: not for {format.name}; expected one of {able}")
    if (options.batch_size or options.input_name != INPUT_NAME) and not format.fixed_input:
        able = ", ".join(f.name for f in FORMATS.values() if f.fixed_input)
        raise UserError(
            f"--batch-size, --input-name: not for {format.name}; expected one of {able}"
        )
    if not 0 <= options.batch_size <= MAX_BATCH:
        raise UserError(f"--batch-size: expected 0 to {MAX_BATCH}, got {options.batch_size}")
    if not re.fullmatch(INPUT_NAMES, options.input_name):
        raise UserError(
            "--input-name: expected up to 64 letters, digits and underscores, got "
            f"{options.input_name[:80]!r}"
        )
    if not 0 <= options.max_drop <= 100 or options.max_images < 0:
        raise UserError("--max-drop: expected 0 to 100; --max-images: expected 0 or more")
    if format.holds:
        page.check_folder(out)
    elif options.ort:
        raise UserError(f"--ort: only for --format web; {format.name} does not use it")
    return format


def _format(out: Path, name: str | None) -> Format:
    """The format called `name`, or the one that files with the suffix of `out` have."""
    if name is None:
        for format in FORMATS.values():
            if format.suffix and format.suffix == out.suffix:
                return format
        suffixes = ", ".join(f.suffix for f in FORMATS.values() if f.suffix)
        raise UserError(
            f"--out: expected a file that ends in one of {suffixes}, got {out}; a page for "
            "browsers is written by --format web"
        )
    if name not in FORMATS:
        raise UserError(f"--format: expected one of {', '.join(FORMATS)}, got {name!r}")
    if FORMATS[name].suffix not in ("", out.suffix):
        raise UserError(f"--out: {name} files end in {FORMATS[name].suffix}, got {out}")
    return FORMATS[name]


def _make(job: _Job, weights: Mapping[str, NDArray[Any]], calibration: Images | None) -> _Made:
    job.path.parent.mkdir(exist_ok=True)
    in_float = _write(job, weights, calibration)
    if not job.inner.runtime:
        return _Made(in_float, None, [])
    comparison = _compare(job)
    problems = comparison.problems(job.artifact.precision, job.options.max_drop)
    return _Made(in_float, comparison, problems)


def _write(
    job: _Job, weights: Mapping[str, NDArray[Any]], calibration: Images | None
) -> tuple[str, ...]:
    """Build the network, quantise it if there are `calibration` images, and write it.

    Returns the blocks that quantisation left in float.
    """
    exporter = job.exporter
    network = exporter.build(job.artifact, weights)
    in_float: tuple[str, ...] = ()
    if calibration:
        network, in_float = _quantise(job, network, calibration)
    exporter.write(network, job.artifact, job.path)
    return in_float


def _quantise(job: _Job, network: Any, calibration: Images) -> tuple[Any, tuple[str, ...]]:
    """The network in int8, and the blocks left in float."""
    int8 = load_module("seresnext.exporters.int8", INT8_EXTRA)
    exporter = job.exporter
    pixels, labels = job.read(job.images)
    reference = job.engine.predict(pixels)
    targets = labels if job.images.labelled else reference.argmax(1)

    def logits(candidate: Any) -> NDArray[Any]:
        exporter.write(candidate, job.artifact, job.path)
        with closing(job.open()) as runtime:
            return runtime.predict(pixels)

    def score(logits: NDArray[Any]) -> float:
        return 100 * float((logits.argmax(1) == targets).mean())

    trial = int8.Trial(logits, reference, score)
    ranges, _ = job.read(calibration)
    result = int8.quantise(network, job.artifact.spec, ranges, trial, job.options.max_drop)
    return result.model, result.in_float


def _compare(job: _Job) -> Comparison:
    """Compare the written artifact with the engine. Raises UserError if no image can be read."""
    batches = job.images.batches(job.artifact.spec, job.options.workers)
    with closing(job.open()) as runtime, closing(batches):
        result = compare(job.engine, runtime, batches, labelled=job.images.labelled)
    if not result.images:
        raise UserError(f"none of {job.images.origin} could be read")
    return result


def _refusal(job: _Job, made: _Made, out: Path) -> str:
    what = "folder" if job.format.holds else "file"
    kept = f"; the earlier {what} is unchanged" if out.exists() else ""
    engine = made.comparison.engine if made.comparison else ""
    return (
        f"{out} was not written, because it does not predict as the {engine} does on "
        f"{job.images.origin}: {'; '.join(made.problems)}{kept}"
    )


def _move_into_place(folder: Path, out: Path) -> tuple[Path, ...]:
    """Move the files of `folder` beside `out`, the one called `out` last.

    In between, an earlier .xml refuses the new .bin.
    """
    made = sorted(folder.iterdir(), key=lambda file: file.name == out.name)
    for file in made:
        move = replace_folder if file.is_dir() else os.replace
        move(file, out.parent / file.name)
    return tuple(out.parent / file.name for file in made)
