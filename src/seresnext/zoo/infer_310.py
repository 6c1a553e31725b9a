"""`run_infer_310.sh`: preprocessing, inference with the MINDIR, postprocessing; on any machine.

    preprocess_Result/imagenet_label.json   image name -> class index
    result_Files/<name>_0.bin               float32 logits
    time_Result/test_perform_static.txt     average time per image
    acc.log                                 top-1 and top-5 accuracy

all in the current folder. Results of an earlier run are renamed, not removed.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from ..config import DataConfig
from ..data.loader import BadImages, eval_batches
from ..data.sources import evaluation_path, image_list
from ..errors import UserError
from ..files import writing
from ..runtimes.base import Runtime, create_runtime
from .command import exit_with
from .postprocess import UNREAD_FILE, accuracy, accuracy_lines, unread_line
from .preprocess import (
    LABEL_FILE,
    flat_names,
    images_below,
    result_name,
    set_aside,
    write_labels,
)

LABELS = Path("preprocess_Result")
RESULTS = Path("result_Files")
TIMES = Path("time_Result")
TIME_FILE = "test_perform_static.txt"
ACCURACY = Path("acc.log")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="run_infer_310.sh",
        usage="%(prog)s MINDIR_PATH DATASET_NAME DATASET_PATH y|n [DEVICE_ID] [OPTIONS]",
    )
    parser.add_argument("mindir", type=Path)
    parser.add_argument("dataset_name", choices=["imagenet2012", "imagenet"])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("need_preprocess", choices=["y", "n"], help="n: use the existing labels")
    parser.add_argument("device_id", type=int, nargs="?", default=0)
    parser.add_argument(
        "--device_target", choices=["CPU", "Ascend"], help="default: Ascend if there is one"
    )
    parser.add_argument(
        "--resize",
        choices=["short", "stretch"],
        help="instead of the model's own; stretch resizes to a square, as the original's flow did",
    )
    parser.add_argument("--on_bad_image", choices=["stop", "skip"], default="stop")
    given = parser.parse_args(argv)

    model = create_runtime(given.mindir, device=_device(given.device_target, given.device_id))
    if given.need_preprocess == "y":
        write_labels(given.dataset, LABELS, model.spec.class_names)
    elif not (LABELS / LABEL_FILE).is_file():
        raise UserError(f"no {LABELS / LABEL_FILE} of an earlier run; give y for NEED_PREPROCESS")
    for path in (RESULTS, TIMES, ACCURACY):
        set_aside(path)
    summary = write_logits(model, given.dataset, RESULTS, given.resize, given.on_bad_image)
    TIMES.mkdir()
    (TIMES / TIME_FILE).write_text(f"{summary}\n")
    print(f"{summary} on {model.name} {model.device}")
    metrics = accuracy(RESULTS, LABELS / LABEL_FILE)
    ACCURACY.write_text(accuracy_lines(metrics))
    print(accuracy_lines(metrics), end="")
    if metrics.unread:
        print(unread_line(metrics))
    return 0


def _device(target: str | None, device_id: int) -> str:
    """The runtime's device; by default Ascend if its driver is installed, else the CPU."""
    present = any(Path("/dev").glob("davinci[0-9]*"))
    return f"ascend:{device_id}" if target == "Ascend" or (target is None and present) else "cpu"


def write_logits(
    model: Runtime,
    data: Path,
    results: Path,
    resize: Literal["short", "stretch"] | None = None,
    on_bad_image: Literal["stop", "skip"] = "stop",
) -> str:
    """Write the logits of every image below `data`, one at a time; return the timing line.

    Images are preprocessed as in evaluation. The time is that of inference alone, after one image
    to warm up; images are read and decoded ahead.
    """
    folder = evaluation_path(data)
    paths = images_below(folder)
    names = flat_names(paths)
    inputs = model.spec.input if resize is None else replace(model.spec.input, resize=resize)
    report = BadImages()
    batches = eval_batches(
        image_list(folder / path for path in paths),
        inputs,
        DataConfig(on_bad_image=on_bad_image),
        batch_size=1,
        report=report,
    )
    model.predict(np.zeros((1, inputs.image_size, inputs.image_size, 3), np.uint8))
    seconds, count, unread = 0.0, 0, []
    results.mkdir(parents=True)
    with closing(batches):
        for path, batch in zip(paths, batches, strict=True):
            if not batch.mask[0]:
                unread.append(names[path])
                continue
            start = time.perf_counter()
            logits = model.predict(batch.images)
            seconds += time.perf_counter() - start
            count += 1
            with writing(results):
                file = results / result_name(names[path])
                file.write_bytes(np.asarray(logits[0], "<f4").tobytes())
    if unread:
        (results / UNREAD_FILE).write_text(json.dumps(unread))
    return time_line(seconds, count)


def time_line(seconds: float, count: int) -> str:
    """The original's timing line."""
    average = seconds * 1e3 / max(count, 1)
    return f"NN inference cost average time: {average:.4f} ms of infer_count {count}"


if __name__ == "__main__":
    exit_with(main)
