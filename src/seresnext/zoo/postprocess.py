"""`postprocess.py`: accuracy from the result files and the labels, as the original prints it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import read_json
from ..training.metrics import Metrics, MetricSums
from .command import parse
from .options import PostprocessOptions
from .preprocess import result_name

UNREAD_FILE = "unread.json"
"""In `result_Files/`: names of the images that could not be read, if any were skipped."""


def main(argv: list[str]) -> int:
    options = parse(PostprocessOptions, argv, "postprocess.py").options
    metrics = accuracy(Path(options.result_path), Path(options.label_path))
    if metrics.unread:
        print(unread_line(metrics), file=sys.stderr)
    print(accuracy_lines(metrics), end="")
    return 0


def accuracy_lines(metrics: Metrics) -> str:
    """The content of `acc.log`: fractions, after two spaces."""
    return f"Top1 acc:  {metrics.top1}\nTop5 acc:  {metrics.top5}\n"


def unread_line(metrics: Metrics) -> str:
    return f"{metrics.unread} images could not be read and are not counted"


def accuracy(results: Path, labels: Path) -> Metrics:
    """Accuracy over the labelled images, each counted once.

    Raises UserError for a label without result and a result without label, for a result whose
    number of logits is not that of the first, and for a label beyond them.
    """
    truth = _read_labels(labels)
    unread_file = results / UNREAD_FILE
    unread = set(read_json(unread_file, "names")) if unread_file.exists() else set()
    if not results.is_dir():
        raise UserError(f"no folder {results}; expected the results of the inference there")
    found = {path.name for path in results.glob("*_0.bin")}
    expected = {result_name(name): name for name in truth if name not in unread}
    missing, extra = sorted(set(expected) - found), sorted(found - set(expected))
    if missing or extra:
        which = f"no {missing[0]}" if missing else f"{extra[0]} has no label"
        raise UserError(
            f"{results} does not fit {labels}: {len(missing)} results are missing and {len(extra)} "
            f"have no label ({which}); run the inference again on the images the labels were made "
            "from"
        )
    sums, classes = MetricSums(), 0
    for file, name in expected.items():
        logits = np.fromfile(results / file, "<f4")
        classes = classes or len(logits)
        if not len(logits) == classes == (results / file).stat().st_size // 4:
            raise UserError(f"{results / file} holds {len(logits)} logits, others {classes}")
        if not 0 <= truth[name] < classes:
            raise UserError(f"{labels}: {name} has class {truth[name]}, there are {classes} logits")
        sums.add(logits[None], np.array([truth[name]]), np.ones(1, bool))
    sums.counts[3] = len(unread)
    return sums.result(0.0)


def _read_labels(path: Path) -> dict[str, int]:
    labels = read_json(path, "labels")
    if not isinstance(labels, dict) or not all(type(label) is int for label in labels.values()):
        raise UserError(f"{path}: expected image names and class indices, as preprocess.py writes")
    return labels
