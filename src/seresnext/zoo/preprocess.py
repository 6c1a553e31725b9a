"""`preprocess.py`: the labels of the 310 flow, image name -> class index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..data.sources import evaluation_path, open_source
from ..errors import UserError
from ..runtimes.base import create_runtime
from .names import flat_names, images_below
from .options import named, parse

LABEL_FILE = "imagenet_label.json"


@dataclass(frozen=True)
class PreprocessOptions:
    """`preprocess.py`."""

    dataset_name: Literal["imagenet2012", "imagenet"] = named("imagenet2012", "any image folder")
    data_path: str = named("", "validation images: a folder of <class>/, or one with val/")
    output_path: str = named("./preprocess_Result", "where imagenet_label.json is written")
    mindir: str = named("", "model whose classes number the labels (else the folders, sorted)")


def main(argv: list[str]) -> int:
    options, flags = parse(PreprocessOptions, argv, "preprocess.py")
    if flags or not options.data_path:
        raise UserError("preprocess.py: give --data_path DIR with DIR/<class>/<image>")
    class_names = create_runtime(options.mindir).spec.class_names if options.mindir else None
    path = write_labels(Path(options.data_path), Path(options.output_path), class_names)
    print(f"labels: {path}")
    return 0


def write_labels(data: Path, out: Path, class_names: Sequence[str] | None = None) -> Path:
    """Write `out`/imagenet_label.json for the class folders of `data`; return its path.

    Classes are numbered as `class_names` has them, else in the order of the sorted folder names,
    as in the original. An earlier `out` is kept beside. Raises UserError for images outside class
    folders, and what `open_source` raises.
    """
    folder = evaluation_path(data)
    known = _label_names(folder, class_names)
    open_source(folder, class_names=known, allow_empty_classes=True)  # refuses unknown classes
    names = flat_names(images_below(folder))
    astray = [path for path in names if "/" not in path]
    if astray:
        raise UserError(
            f"{folder}: {len(astray)} images lie in no class folder, such as {astray[0]}; "
            "move them into one, or elsewhere"
        )
    numbers = {name: number for number, name in enumerate(known)}
    labels = {name: numbers[path.split("/")[0]] for path, name in names.items()}
    set_aside(out)
    try:
        out.mkdir(parents=True)
        path = out / LABEL_FILE
        path.write_text(json.dumps(labels))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    return path


def _label_names(folder: Path, model_names: Sequence[str] | None) -> Sequence[str]:
    """Class names in the order of their indices.

    Those of the model; but where it has mere numbers for want of names (an original checkpoint,
    exported without images) and the folders other names, the folders', sorted, as the original had
    them. Raises UserError where those are not as many.
    """
    folders = open_source(folder, allow_empty_classes=True).class_names
    if model_names is None:
        return folders
    numbered = list(model_names) == [str(index) for index in range(len(model_names))]
    if not numbered or set(folders) <= set(model_names):
        return model_names
    if len(folders) != len(model_names):
        raise UserError(
            f"the model has {len(model_names)} classes without names, {folder} has {len(folders)} "
            "class folders; export it again with --data_path, which names the classes"
        )
    return folders


def set_aside(path: Path) -> None:
    """Rename what an earlier run left at `path` to the first free of path.1, path.2, ..."""
    if not path.exists():
        return
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    path.rename(aside)
