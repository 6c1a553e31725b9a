"""One training step on the CPU: this engine beside timm's model with a plain PyTorch step.

    python benchmarks/train_step_torch.py [--batch 16] [--size 224] [--threads 2] [--rounds 7]

Same network (seresnext50_32x4d, 1000 classes), same batch, SGD with momentum, weight decay and
label smoothing, channels last, in float32 and under bfloat16 autocast. timm's step is what its
users write; it gets normalised float images for nothing, where ours starts from uint8 pixels. Each
has a process of its own and they step in turn, so that what else the machine does meets all.
Printed are medians of the wall time and of the processor time, and the medians of the rounds'
ratios. On a busy machine the processor time is the one to trust.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def ours(batch: int, size: int, threads: int) -> Step:
    return engine_step(EngineConfig(device="cpu", threads=threads), batch, size)


def ours_compiled(batch: int, size: int, threads: int) -> Step:
    return engine_step(EngineConfig(device="cpu", threads=threads, compile=True), batch, size)


def ours_bf16(batch: int, size: int, threads: int) -> Step:
    return engine_step(EngineConfig(device="cpu", threads=threads, precision="bf16"), batch, size)


def timm_bf16(batch: int, size: int, threads: int) -> Step:
    return timm_step(batch, size, threads, bf16=True)


def timm_step(batch: int, size: int, threads: int, bf16: bool = False) -> Step:
    import torch

    from engines.timm_reference import timm

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = timm.create_model(NAME).to(memory_format=torch.channels_last).train()
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
    sgd = torch.optim.SGD(groups, LR, MOMENTUM, weight_decay=DECAY)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    images, labels = pixels_and_labels(batch, size)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(128).sub(1)
    y = torch.from_numpy(labels).long()

    def step() -> float:
        sgd.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(x)
        loss = loss_of(logits.float(), y)
        loss.backward()
        sgd.step()
        return loss.item()

    return step


STEPS: dict[str, Callable[[int, int, int], Step]] = {
    "timm": timm_step,
    "seresnext": ours,
    "timm, bf16 autocast": timm_bf16,
    "seresnext --precision bf16": ours_bf16,
    "seresnext --engine.compile": ours_compiled,
}


def serve(name: str, batch: int, size: int, threads: int, pipe: Connection) -> None:
    """In a process of its own: one step for every message, answered by its (wall, CPU) seconds."""
    step = STEPS[name](batch, size, threads)
    for _ in range(2):  # the first allocates, and compiles
        step()
    pipe.send("ready")
    while pipe.recv():
        pipe.send(timed(step))


def measure(names: list[str], args: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    context = multiprocessing.get_context("spawn")
    workers = {}
    for name in names:
        here, there = context.Pipe()
        worker_args = (name, args.batch, args.size, args.threads, there)
        context.Process(target=serve, args=worker_args, daemon=True).start()
        there.close()  # so that a step that fails ends the wait for its answer
        here.recv()
        workers[name] = here
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name, pipe in workers.items():
            pipe.send(True)
            times[name].append(pipe.recv())
    for pipe in workers.values():
        pipe.send(False)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also the compiled step (minutes)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    names = list(STEPS) if args.compile else list(STEPS)[:4]
    times = measure(names, args)
    print(f"{NAME}, batch {args.batch}, {args.size} px, {args.threads} threads")
    print(f"{'step of':28} {'wall s':>8} {'CPU s':>8} {'timm/it, wall':>14} {'timm/it, CPU':>14}")
    records = []
    for name in names:
        wall, cpu = (statistics.median(t[i] for t in times[name]) for i in (0, 1))
        pairs = list(zip(times["timm"], times[name], strict=True))
        ratios = [statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1)]
        print(f"{name:28} {wall:8.2f} {cpu:8.2f} {ratios[0]:14.2f} {ratios[1]:14.2f}")
        records.append({"step": name, "wall": wall, "cpu": cpu, "ratios": ratios})
    if args.json:
        args.json.write_text(json.dumps({**vars(args), "json": None, "rows": records}, indent=2))


if __name__ == "__main__":
    main()
