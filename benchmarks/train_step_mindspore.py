"""One training step on the CPU: the MindSpore engine beside mindcv's model and train step.

    python benchmarks/train_step_mindspore.py [--batch 16] [--size 224] [--rounds 5]
        [--as-installed] [--profile]

Same network (seresnext50_32x4d, 1000 classes), same batch, SGD with momentum, weight decay and
label smoothing, float32, MindSpore's own number of threads. mindcv's step is what its users run:
its model, loss and optimizer in `nn.TrainOneStepCell`; it gets normalised float images for
nothing, where ours starts from uint8 pixels. Both live in one process and step in turn, so that
what else the machine does meets both; both then use the kernels that our engine chooses. With
`--as-installed` mindcv also runs alone, with those that MindSpore would choose: on a processor
with AVX-512 that takes minutes. `--profile` prints where the time of one step goes.

Printed are medians of the wall time and of the processor time, and the medians of the rounds'
ratios. On a busy machine the processor time is the one to trust.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import statistics
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from _step import (
    DECAY,
    LR,
    MOMENTUM,
    NAME,
    SMOOTHING,
    Step,
    engine_step,
    pixels_and_labels,
    timed,
)
from seresnext.config import EngineConfig


def ours(batch: int, size: int) -> Step:
    return engine_step(EngineConfig(name="mindspore", device="cpu"), batch, size)


def mindcv_step(batch: int, size: int) -> Step:
    import mindcv
    import mindspore as ms
    from mindcv.loss import create_loss
    from mindcv.optim import create_optimizer
    from mindspore import nn

    ms.set_context(mode=ms.GRAPH_MODE)
    model = mindcv.create_model(NAME, num_classes=1000)
    loss = create_loss("CE", label_smoothing=SMOOTHING)
    optimizer = create_optimizer(
        model.trainable_params(), opt="momentum", lr=LR, momentum=MOMENTUM, weight_decay=DECAY
    )
    step = nn.TrainOneStepCell(nn.WithLossCell(model, loss), optimizer)
    step.set_train(True)
    images, labels = pixels_and_labels(batch, size)
    x = ms.Tensor((images.transpose(0, 3, 1, 2) / 128 - 1).astype(np.float32))
    y = ms.Tensor(labels)
    return lambda: step(x, y).asnumpy()


def as_installed(batch: int, size: int, pipe: Connection) -> None:
    """In a process of its own, where our engine has set nothing: mindcv's second step."""
    step = mindcv_step(batch, size)
    step()
    pipe.send(timed(step))


def profile(step: Step) -> list[tuple[str, int, float]]:
    """Operator, calls and milliseconds of one step, by MindSpore's profiler."""
    import mindspore as ms
    from mindspore.profiler import ProfilerActivity, ProfilerLevel

    with tempfile.TemporaryDirectory() as folder:
        profiler = ms.Profiler(
            output_path=folder,
            profiler_level=ProfilerLevel.Level0,
            activities=[ProfilerActivity.CPU],
        )
        step()
        profiler.analyse()
        table = next(Path(folder).rglob("cpu_op_type_info_0.csv")).read_text().splitlines()
    rows = [
        (r["op_type"], int(float(r["type_occurrences"])), float(r["total_compute_time"]))
        for r in csv.DictReader(table)
    ]
    return sorted(rows, key=lambda row: -row[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--as-installed", action="store_true", help="mindcv without our kernels")
    parser.add_argument("--profile", action="store_true", help="time per operator, of both")
    args = parser.parse_args()
    makers = {"seresnext": ours, "mindcv": mindcv_step}  # ours first: it chooses the kernels
    steps = {name: make(args.batch, args.size) for name, make in makers.items()}
    for step in steps.values():
        for _ in range(2):  # the first compiles
            step()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            times[name].append(timed(step))
    if args.as_installed:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        context.Process(target=as_installed, args=(args.batch, args.size, there)).start()
        there.close()  # so that a step that fails ends the wait for its answer
        times["mindcv as installed"] = [here.recv()] * args.rounds

    print(f"{NAME}, batch {args.batch}, {args.size} px, float32")
    print(f"{'step of':20} {'wall s':>8} {'CPU s':>8} {'/ ours, wall':>14} {'/ ours, CPU':>14}")
    for name, measured in times.items():
        wall, cpu = (statistics.median(t[i] for t in measured) for i in (0, 1))
        pairs = list(zip(measured, times["seresnext"], strict=True))
        ratios = [statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1)]
        print(f"{name:20} {wall:8.2f} {cpu:8.2f} {ratios[0]:14.2f} {ratios[1]:14.2f}")
    for name, step in steps.items() if args.profile else ():
        rows = profile(step)
        total = sum(ms for _, _, ms in rows)
        print(f"\n{name}: {total:.0f} ms in operators")
        for kind, calls, ms in rows[:16]:
            print(f"  {kind:24} {calls:5} calls {ms:8.0f} ms {ms / total:6.1%}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # mindcv's cells would each complain that the interpreter ends before them
