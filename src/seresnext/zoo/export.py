"""`export.py`: write a checkpoint as AIR, ONNX or MINDIR, compared with the engine's outputs."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from ..config import run_data
from ..data.sources import open_evaluation
from ..errors import UserError
from ..exporters.images import recorded_parts
from ..exporters.options import ExportOptions as Comparing
from ..exporters.report import print_report
from ..exporters.run import export
from ..model.saved_model import save_model
from ..runtimes.formats import FORMATS
from ..weights.load import load_weights
from .command import Given, parse
from .evaluate import spec_of
from .options import ExportOptions
from .settings import check_device, engine_config, image_size, validation_path
from .wording import own_words, reworded

ORIGINAL_INPUT_NAME = "actual_input_1"
"""What MindSpore called the input in the original's files, and its converter line expects."""


def main(argv: list[str]) -> int:
    given = parse(ExportOptions, argv, "export.py")
    with own_words(given):
        return _export(given)


def _export(given: Given[ExportOptions]) -> int:
    options = given.options
    if not options.ckpt_file:
        raise UserError("ckpt_file is not set: give --ckpt_file F, the checkpoint to export")
    path = Path(options.ckpt_file)
    run = path if path.is_dir() else path.parent
    recorded = recorded_parts(run_data(run))[1]
    data = Path(options.data_path) if options.data_path else recorded.path if recorded else None
    loaded = load_weights(path)
    data = images(given, path)
    spec = spec_of(
        path,
        loaded,
        class_names(data, loaded.architecture.num_classes),
        image_size(options.height, options.width),
    )
    check_device(options.device_target)
    settings = engine_config(options.device_target, options.device_id, options.engine)
    with tempfile.TemporaryDirectory(prefix="seresnext-") as folder:
        model = Path(folder, "model")
        save_model(model, spec, loaded.weights)
        comparing = Comparing(data=data, engine=settings.name, device=settings.device)
        if options.fixed_shape:
            comparing = replace(
                comparing, batch_size=options.batch_size, input_name=ORIGINAL_INPUT_NAME
            )
        report = export(model, output_file(given), comparing)
    print_report(replace(report, images=reworded(report.images, given)))
    return 0


def output_file(given: Given[ExportOptions]) -> Path:
    """The file to write, with the format's ending. A name for the format is a default."""
    options, form = given.options, given.options.file_format
    name = options.file_name
    if "file_name" not in given.typed:
        name = {"ONNX": options.onnx_filename, "AIR": options.air_filename}.get(form) or name
    suffix = FORMATS[form.lower()].suffix
    return Path(name.removesuffix(suffix) + suffix)


def images(given: Given[ExportOptions], checkpoint: Path) -> Path | None:
    """The images to compare on: those typed, else the run's own, else those of the file."""
    options = given.options
    run = checkpoint if checkpoint.is_dir() else checkpoint.parent
    recorded = recorded_parts(run_data(run))[1]
    if recorded and not {"data_path", "val_data_path"} & given.typed:
        return recorded.path
    if not options.data_path and not options.val_data_path:
        return None
    return Path(validation_path(given))


def class_names(data: Path | None, classes: int) -> tuple[str, ...]:
    """The sorted class folders of `data`; without data the classes are numbered."""
    if data is None:
        return tuple(map(str, range(classes)))
    return open_evaluation(data).class_names
