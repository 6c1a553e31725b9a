"""File names of the 310 flow: flat as the original's, and never the same for two images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..data.sources import image_files


def flat_names(paths: Iterable[str]) -> dict[str, str]:
    """Path below the data set -> the name under which its label and its result are kept.

    An image whose name without ending is unique keeps its name, as in the original. Where several
    share it (class folders with `1.jpg` each, or `1.jpg` beside `1.png`), each is named by its
    path, `cats/1.jpg` -> `cats__1.jpg`. A name that is still taken gets a number, in order of the
    paths: `cats__1__2.jpg`. The names without endings are then all different, so that results
    `<name without ending>_0.bin` are too.
    """
    paths = sorted(paths)
    common = Counter(_stem(path) for path in paths)
    names = {path: _name(path) for path in paths if common[_stem(path)] == 1}
    taken = {_stem(name) for name in names.values()}
    for path in paths:
        if path not in names:
            name = _free(path.replace("/", "__"), taken)
            names[path] = name
            taken.add(_stem(name))
    return names


def result_name(name: str) -> str:
    """The file in `result_Files/` that holds the logits of the image of this name."""
    return f"{_stem(name)}_0.bin"


def images_below(dataset: Path) -> list[str]:
    """Paths of the images below a data set, relative to it, with `/`, in order.

    Raises UserError where there are none.
    """
    return [path.relative_to(dataset).as_posix() for path in image_files([dataset])]


def _free(name: str, taken: set[str]) -> str:
    stem, ending = _stem(name), PurePosixPath(name).suffix
    number = 1
    while stem in taken:
        number += 1
        stem = f"{_stem(name)}__{number}"
    return stem + ending


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _stem(path: str) -> str:
    return PurePosixPath(path).stem
