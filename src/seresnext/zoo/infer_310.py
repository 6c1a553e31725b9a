"""`run_infer_310.sh`: preprocessing, inference with the MINDIR, postprocessing; on any machine.

    preprocess_Result/imagenet_label.json   image name -> class index
    result_Files/<name>_0.bin               float32 logits
    time_Result/test_perform_static.txt     average time per image
    acc.log                                 top-1 and top-5 accuracy

all in the current folder. Results of an earlier run are renamed, not removed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..batch import Batch
from ..config import DataConfig
from ..data.loader import Reader, Share, eval_batches
from ..data.sources import evaluation_path, image_list
from ..errors import UserError
from ..files import write_json, writing
from ..runtimes.base import Runtime, create_runtime
from .command import Given, exit_with
from .options import InferOptions
from .postprocess import UNREAD_FILE, accuracy, accuracy_lines, unread_line
from .preprocess import (
    LABEL_FILE,
    completed_line,
    flat_names,
    images_below,
    result_name,
    set_aside,
    write_labels,
)
from .settings import check_device, has_ascend
from .wording import own_words

PROGRAM = "run_infer_310.sh"
LABELS = Path("preprocess_Result")
RESULTS = Path("result_Files")
TIMES = Path("time_Result")
TIME_FILE = "test_perform_static.txt"
ACCURACY = Path("acc.log")


def main(argv: list[str]) -> int:
    given = _arguments(argv)
    with own_words(Given(InferOptions())):
        return _infer(given)


def _infer(given: argparse.Namespace) -> int:
    if given.device_target:
        check_device(given.device_target)
    model = create_runtime(given.mindir, device=_device(given.device_target, given.device_id))
    if given.need_preprocess == "y":
        print(completed_line(write_labels(given.dataset, LABELS, model.spec.class_names)))
    elif not (LABELS / LABEL_FILE).is_file():
        raise UserError(f"no {LABELS / LABEL_FILE} of an earlier run; give y for NEED_PREPROCESS")
    for path in (RESULTS, TIMES, ACCURACY):
        set_aside(path)
    folder = evaluation_path(given.dataset)
    paths = images_below(folder)
    source = image_list(folder / path for path in paths)
    reader = Reader(
        source, DataConfig(on_bad_image=given.on_bad_image, max_pixels=given.max_pixels)
    )
    inputs = replace(model.spec.input, resize=given.resize or model.spec.input.resize)
    batches = eval_batches(reader, inputs, Share(1))
    names = flat_names(paths)
    summary = write_logits(model, batches, [names[path] for path in paths], RESULTS)
    TIMES.mkdir()
    (TIMES / TIME_FILE).write_text(f"{summary}\n")
    print(f"{summary} on {model.name} {model.device}")
    metrics = accuracy(RESULTS, LABELS / LABEL_FILE)
    ACCURACY.write_text(accuracy_lines(metrics))
    print(accuracy_lines(metrics), end="")
    if metrics.unread:
        print(unread_line(metrics))
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s MINDIR_PATH DATASET_NAME DATASET_PATH y|n [DEVICE_ID] [OPTIONS]",
    )
    parser.add_argument("mindir", type=Path)
    parser.add_argument("dataset_name", choices=["imagenet2012", "imagenet"])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("need_preprocess", choices=["y", "n"], help="n: use the existing labels")
    parser.add_argument("device_id", type=whole_number, nargs="?", default=0)
    parser.add_argument(
        "--device_target", choices=["CPU", "Ascend"], help="default: Ascend if there is one"
    )
    parser.add_argument(
        "--resize",
        choices=["short", "stretch", "original"],
        help="instead of the model's own; stretch resizes to a square, as the original's flow did; "
        "original: the pixels of the original's evaluation",
    )
    parser.add_argument("--on_bad_image", choices=["stop", "skip"], default="stop")
    parser.add_argument("--max_pixels", type=whole_number, default=DataConfig().max_pixels)
    return parser.parse_args(argv)


def whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return int(text)


def _device(target: str | None, device_id: int) -> str:
    """The runtime's device; by default Ascend if its driver is installed, else the CPU."""
    ascend = target == "Ascend" or (target is None and has_ascend())
    return f"ascend:{device_id}" if ascend else "cpu"


def write_logits(
    model: Runtime, batches: Generator[Batch, None, None], names: Sequence[str], results: Path
) -> str:
    """Write the logits of each image, which come one a batch; return the timing line.

    The time is that of inference alone, after one image to warm up.
    """
    side = model.spec.input.image_size
    model.predict(np.zeros((1, side, side, 3), np.uint8))
    seconds, count, unread = 0.0, 0, []
    results.mkdir(parents=True)
    with closing(batches):
        for name, batch in zip(names, batches, strict=True):
            if not batch.mask[0]:
                unread.append(name)
                continue
            start = time.perf_counter()
            logits = model.predict(batch.images)
            seconds += time.perf_counter() - start
            count += 1
            with writing(results):
                (results / result_name(name)).write_bytes(np.asarray(logits[0], "<f4").tobytes())
    if unread:
        write_json(results / UNREAD_FILE, unread)
    return time_line(seconds, count)


def time_line(seconds: float, count: int) -> str:
    """The original's timing line."""
    average = seconds * 1e3 / max(count, 1)
    return f"NN inference cost average time: {average:.4f} ms of infer_count {count}"


if __name__ == "__main__":
    exit_with(main, PROGRAM)
