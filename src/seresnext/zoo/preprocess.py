"""`preprocess.py`: the labels of the 310 flow, image name -> class index.

The original keeps labels and results under an image's file name alone, which two images may share;
`flat_names` keeps them apart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..data.sources import evaluation_path, image_files, open_source
from ..errors import UserError
from ..files import writing
from ..runtimes.base import create_runtime
from .command import parse
from .options import PreprocessOptions
from .settings import validation_path
from .wording import own_words

LABEL_FILE = "imagenet_label.json"


def main(argv: list[str]) -> int:
    given = parse(PreprocessOptions, argv, "preprocess.py")
    options = given.options
    with own_words(given):
        data = Path(validation_path(given))
        class_names = create_runtime(options.mindir).spec.class_names if options.mindir else None
        labels = write_labels(data, Path(options.output_path), class_names)
    print(completed_line(labels))
    return 0


def completed_line(labels: Mapping[str, int]) -> str:
    """The original's line at the end of the preprocessing."""
    return f"[INFO] Completed! Total {len(labels)} data."


def write_labels(data: Path, out: Path, class_names: Sequence[str] | None = None) -> dict[str, int]:
    """Write `out`/imagenet_label.json for the class folders of `data`; return what is in it.

    Classes are numbered as `class_names` has them, else in the order of the sorted folder names,
    as in the original. An earlier `out` is renamed. Raises UserError for images outside class
    folders, and what `open_source` raises.
    """
    folder = evaluation_path(data)
    known = _label_names(folder, class_names)
    open_source(folder, class_names=known, allow_empty_classes=True)  # refuses unknown classes
    names = flat_names(images_below(folder))
    outside = [path for path in names if "/" not in path]
    if outside:
        raise UserError(
            f"{folder}: {len(outside)} images lie in no class folder, such as {outside[0]}; "
            "move them into one, or elsewhere"
        )
    numbers = {name: number for number, name in enumerate(known)}
    labels = {name: numbers[path.split("/")[0]] for path, name in names.items()}
    with writing(out):
        set_aside(out)
        out.mkdir(parents=True)
        (out / LABEL_FILE).write_text(json.dumps(labels))
    return labels


def _label_names(folder: Path, model_names: Sequence[str] | None) -> Sequence[str]:
    """Class names in the order of their indices.

    Those of the model, unless its classes are only numbered (an original checkpoint, exported
    without images) and the folders have other names: then the folders', sorted, as in the original.
    Raises UserError if their numbers differ.
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


# File names --------------------------------------------------------------------------------


def flat_names(paths: Iterable[str]) -> dict[str, str]:
    """Path below the data set -> the name under which its label and its result are kept.

    An image whose stem (name without suffix) is unique keeps its name, as in the original. Images
    that share a stem (`1.jpg` in two class folders, or `1.jpg` beside `1.png`) are named by their
    paths, `cats/1.jpg` -> `cats__1.jpg`. A name that is still taken gets a number, in order of the
    paths: `cats__1__2.jpg`. All stems then differ, and so do the results' names, `<stem>_0.bin`.
    """
    paths = sorted(paths)
    common = Counter(_stem(path) for path in paths)
    names = {path: PurePosixPath(path).name for path in paths if common[_stem(path)] == 1}
    taken = {_stem(name) for name in names.values()}
    for path in paths:
        if path not in names:
            name = _free(path.replace("/", "__"), taken)
            names[path] = name
            taken.add(_stem(name))
    return names


def result_name(name: str) -> str:
    """Name of the file in `result_Files/` with the logits of the image of this name."""
    return f"{_stem(name)}_0.bin"


def images_below(dataset: Path) -> list[str]:
    """Sorted paths of the images below a data set, relative to it, with `/`.

    Raises UserError if there are none.
    """
    return [path.relative_to(dataset).as_posix() for path in image_files([dataset])]


def _free(name: str, taken: set[str]) -> str:
    stem, suffix = _stem(name), PurePosixPath(name).suffix
    number = 1
    while stem in taken:
        number += 1
        stem = f"{_stem(name)}__{number}"
    return stem + suffix


def _stem(path: str) -> str:
    return PurePosixPath(path).stem
