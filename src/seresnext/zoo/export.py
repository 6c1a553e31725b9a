"""`export.py`: write a checkpoint as AIR, ONNX or MINDIR, compared with the engine's outputs."""

from __future__ import annotations

import tempfile
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
from .command import parse_only
from .evaluate import spec_of, zoo_input
from .options import ExportOptions
from .settings import engine_config


def main(argv: list[str]) -> int:
    options = parse_only(ExportOptions, argv, "export.py")
    if not options.ckpt_file:
        raise UserError("ckpt_file is not set: give --ckpt_file F, the checkpoint to export")
    settings = engine_config(options.device_target, options.device_id, options.engine)
    path = Path(options.ckpt_file)
    run = path if path.is_dir() else path.parent
    recorded = recorded_parts(run_data(run))[1]
    data = Path(options.data_path) if options.data_path else recorded.path if recorded else None
    loaded = load_weights(path)
    spec = spec_of(
        path,
        loaded,
        class_names(data, loaded.architecture.num_classes),
        zoo_input(options.height, options.width),
    )
    suffix = FORMATS[options.file_format.lower()].suffix
    out = Path(options.file_name.removesuffix(suffix) + suffix)
    with tempfile.TemporaryDirectory(prefix="seresnext-") as folder:
        model = Path(folder, "model")
        save_model(model, spec, loaded.weights)
        comparing = Comparing(data=data, engine=settings.name, device=settings.device)
        report = export(model, out, comparing)
    print_report(report)
    return 0


def class_names(data: Path | None, classes: int) -> tuple[str, ...]:
    """The sorted class folders of `data`; without data the classes are numbered."""
    if data is None:
        return tuple(map(str, range(classes)))
    return open_evaluation(data).class_names
