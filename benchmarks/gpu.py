"""The PyTorch engine on a CUDA device: right first, then how fast, beside timm's model.

    PYTHONPATH=src python benchmarks/gpu.py [--json FILE] [--minutes 8]

Needs PyTorch, NumPy, safetensors, and timm for the comparison; nothing else. One call takes less
than nine minutes: what would not fit is left out, and said. `--cpu-dry-run` runs the same code on
the CPU with a tiny network, to keep this script working where there is no GPU.

Checks: the logits of the device against those of the CPU, a training curve of 20 steps against
the CPU's, a step that is not finite, and state carried from one device to the other. Any that
fails makes the exit code 1.

Speed: images per second at 224 px and peak memory, in turns of half a second, medians of the
rounds. Training starts from uint8 images in the host's memory for this engine, and from
normalised float images on the device for timm's model, which is its best case. Prediction starts
from uint8 images on the host and ends with logits there, for both. Both have channels-last
layout, cuDNN's algorithm search, and no TensorFloat-32 in the rows that say fp32.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # how timm is imported, in one place

from seresnext.batch import Batch
from seresnext.config import EngineConfig, OptimConfig
from seresnext.engines.torch.engine import TorchEngine
from seresnext.model.architecture import Architecture, architecture
from seresnext.model.init import init_weights
from seresnext.model.spec import ModelSpec

NAME = "seresnext50_32x4d"
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LOGIT_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
"""Relative Frobenius error against the CPU in float32."""
CURVE_TOLERANCE = {"fp32": 2e-3, "bf16": 6e-2, "fp16": 2e-2}
"""Mean difference of the loss, which falls from 2.4 to 1.2. On a CPU bf16 differs by 0.014."""
OPTIM = OptimConfig(ema_decay=0.99, clip_norm=5.0)


@dataclass(frozen=True)
class Scale:
    """How large everything is: the real run, or a dry run of seconds."""

    device: str
    compiles: bool
    check_options: dict[str, Any]
    check_size: int
    curve_options: dict[str, Any]
    curve_size: int
    curve_batch: int
    curve_steps: int
    speed_options: dict[str, Any]
    image_size: int
    train_batch: int
    predict_batch: int
    rounds: int
    round_seconds: float


SMALL = {"layers": (1, 1, 1, 1)}
# Two groups: half precision is slow in a CPU's grouped convolutions.
TINY = {**SMALL, "cardinality": 2}
REAL = Scale(
    device="cuda",
    compiles=True,
    check_options={},
    check_size=224,
    curve_options=SMALL,
    curve_size=64,
    curve_batch=32,
    curve_steps=20,
    speed_options={},
    image_size=224,
    train_batch=128,
    predict_batch=256,
    rounds=7,
    round_seconds=0.5,
)
DRY = Scale(
    device="cpu",
    compiles=False,
    check_options=TINY,
    check_size=32,
    curve_options=TINY,
    curve_size=32,
    curve_batch=8,
    curve_steps=3,
    speed_options=TINY,
    image_size=32,
    train_batch=4,
    predict_batch=4,
    rounds=1,
    round_seconds=0.0,
)


def spec_of(classes: int, **options: Any) -> ModelSpec:
    # Zero-initialised last BNs would turn every block into the identity and hide its mistakes.
    arch = architecture(NAME, num_classes=classes, zero_init_last_bn=False, **options)
    return ModelSpec(arch, tuple(map(str, range(classes))))


def random_batch(size: int, side: int, classes: int, seed: int = 0) -> Batch:
    """Noise around a brightness that goes with the class, so that it can be learnt."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size).astype(np.int32)
    noise = rng.integers(0, 100, (size, side, side, 3))
    images = (noise + 150 * labels[:, None, None, None] / classes).astype(np.uint8)
    whole = np.ones(size, np.float32)
    return Batch(images, labels, labels, whole, whole.astype(bool), np.arange(size), seed)


# Checks -------------------------------------------------------------------------------------


class Checks:
    """Collects verdicts and prints each as it comes."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def add(self, name: str, error: float, tolerance: float) -> None:
        passed = error <= tolerance  # NaN fails
        self.records.append(
            {"check": name, "error": error, "tolerance": tolerance, "passed": passed}
        )
        verdict = "ok  " if passed else "FAIL"
        print(f"  {verdict} {name:52} {error:.2e} (at most {tolerance:.0e})", flush=True)


def check_logits(checks: Checks, scale: Scale) -> None:
    spec = spec_of(100, **scale.check_options)
    weights = init_weights(spec.architecture, 0)
    images = random_batch(8, scale.check_size, 100).images
    expected = TorchEngine(spec, weights, EngineConfig(device="cpu")).predict(images)
    for precision, tolerance in LOGIT_TOLERANCE.items():
        engine = TorchEngine(
            spec,
            weights,
            EngineConfig(device=scale.device, precision=precision),
        )
        error = np.linalg.norm(engine.predict(images) - expected) / np.linalg.norm(expected)
        checks.add(f"logits at {scale.check_size} px, {precision}", float(error), tolerance)
        error = np.abs(engine.predict(images[:3]) - engine.predict(images)[:3]).max()
        checks.add(f"logits of 3 and of 8 images, {precision}", float(error), 5 * tolerance)


def curve(scale: Scale, device: str, precision: str, compiled: bool) -> np.ndarray:
    """Losses of a run that learns."""
    spec = spec_of(10, **scale.curve_options)
    arch = replace(spec.architecture, zero_init_last_bn=True)  # as runs start; less chaotic too
    config = EngineConfig(device=device, precision=precision, compile=compiled)
    engine = TorchEngine(spec, init_weights(arch, 0), config, OPTIM)
    batches = (
        random_batch(scale.curve_batch, scale.curve_size, 10, seed=k)
        for k in range(scale.curve_steps)
    )
    scalars = [engine.train_step(batch, 0.005) for batch in batches]
    return np.array([engine.fetch(s)["loss"] for s in scalars])


def check_curves(checks: Checks, scale: Scale) -> None:
    expected = curve(scale, "cpu", "fp32", compiled=False)
    print(f"       the CPU's curve: {expected[0]:.3f} ... {expected[-1]:.3f}")
    for compiled in (False, True) if scale.compiles else (False,):
        for precision, tolerance in CURVE_TOLERANCE.items():
            error = np.abs(curve(scale, scale.device, precision, compiled) - expected).mean()
            mode = "compiled" if compiled else "eager"
            checks.add(f"training curve, {precision}, {mode}", float(error), tolerance)


def check_state(checks: Checks, scale: Scale) -> None:
    spec = spec_of(10, **scale.curve_options)
    weights = init_weights(spec.architecture, 0)
    engines = [
        TorchEngine(spec, weights, EngineConfig(device=device), OPTIM)
        for device in (scale.device, "cpu")
    ]
    good = random_batch(16, 32, 10)
    engines[0].train_step(good, 0.02)
    before = engines[0].state_dict()
    bad = replace(good, mix=np.full(16, np.nan, np.float32))
    finite = engines[0].fetch(engines[0].train_step(bad, 0.02))["finite"]
    after = engines[0].state_dict()
    moved = max(
        float(np.abs(after.groups()[group][k] - v).max())
        for group, tensors in before.groups().items()
        for k, v in tensors.items()
    )
    checks.add("a step that is not finite changes nothing", moved + finite, 0.0)
    engines[1].load_state_dict(before)
    losses = [e.fetch(e.train_step(random_batch(16, 32, 10, 1), 0.02))["loss"] for e in engines]
    checks.add("state carried to the CPU goes on", abs(losses[0] - losses[1]), 1e-3)


# Speed --------------------------------------------------------------------------------------


@dataclass
class Row:
    task: str
    precision: str
    mode: str
    model: str
    batch: int
    images_per_second: float = float("nan")
    peak_gib: float = float("nan")
    ratio: float = float("nan")
    """Over timm's model, in the same rounds."""


Work = Callable[[], Any]
"""Starts one batch; the device may still be busy with it."""


def our_training(scale: Scale, precision: str, compiled: bool) -> Work:
    spec = spec_of(1000, **scale.speed_options)
    config = EngineConfig(device=scale.device, precision=precision, compile=compiled)
    engine = TorchEngine(spec, init_weights(spec.architecture, 0), config, OptimConfig())
    batch = random_batch(scale.train_batch, scale.image_size, 1000)
    return lambda: engine.train_step(batch, 0.1)


def timm_training(scale: Scale, precision: str, compiled: bool) -> Work:
    model = timm_network(scale).train()
    scaler = torch.amp.GradScaler(scale.device, enabled=precision == "fp16")
    sgd = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4, fused=True)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    batch = random_batch(scale.train_batch, scale.image_size, 1000)
    x = torch.from_numpy(batch.images).to(scale.device).permute(0, 3, 1, 2).float().div(128).sub(1)
    y = torch.from_numpy(batch.labels).to(scale.device).long()
    run = torch.compile(model) if compiled else model

    def step() -> None:
        sgd.zero_grad()
        with torch.autocast(scale.device, AUTOCAST[precision], enabled=precision != "fp32"):
            loss = loss_of(run(x), y)
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()

    return step


def our_prediction(scale: Scale, precision: str, compiled: bool) -> Work:
    spec = spec_of(1000, **scale.speed_options)
    config = EngineConfig(device=scale.device, precision=precision, compile=compiled)
    engine = TorchEngine(spec, init_weights(spec.architecture, 0), config)
    images = random_batch(scale.predict_batch, scale.image_size, 1000).images
    return lambda: engine.predict(images)


def timm_prediction(scale: Scale, precision: str, compiled: bool) -> Work:
    model = timm_network(scale).eval()
    run = torch.compile(model) if compiled else model
    images = torch.from_numpy(random_batch(scale.predict_batch, scale.image_size, 1000).images)
    if scale.device == "cuda":
        images = images.pin_memory()

    @torch.inference_mode()
    def predict() -> torch.Tensor:
        x = images.to(scale.device, non_blocking=True).permute(0, 3, 1, 2).float().div(128).sub(1)
        with torch.autocast(scale.device, AUTOCAST[precision], enabled=precision != "fp32"):
            return run(x).float().cpu()

    return predict


def timm_network(scale: Scale) -> torch.nn.Module:
    from engines.timm_reference import timm_model

    arch: Architecture = architecture(NAME, **scale.speed_options)
    return timm_model(arch).to(scale.device, memory_format=torch.channels_last)


def synchronise(scale: Scale) -> None:
    if scale.device == "cuda":
        torch.cuda.synchronize()


def warmed_up(build: Callable[[], Work], scale: Scale) -> tuple[Work, float]:
    """The work after its first batches, and the GiB that it added at its peak."""
    if scale.device != "cuda":
        work = build()
        work()
        return work, float("nan")
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    work = build()
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()  # the search for algorithms is over
    work()
    torch.cuda.synchronize()
    return work, (torch.cuda.max_memory_allocated() - before) / 2**30


def images_per_second(work: Work, batch: int, scale: Scale) -> float:
    synchronise(scale)
    start, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - start < scale.round_seconds:
        for _ in range(4 if scale.device == "cuda" else 1):  # let the host run ahead
            work()
            done += batch
        synchronise(scale)
    return done / (time.perf_counter() - start)


def compare(task: str, precision: str, compiled: bool, scale: Scale, with_timm: bool) -> list[Row]:
    """Both models in turns; timm's last, so that its row can end the ratio."""
    builders = {
        "training": {"seresnext": our_training, "timm": timm_training},
        "prediction": {"seresnext": our_prediction, "timm": timm_prediction},
    }[task]
    batch = scale.train_batch if task == "training" else scale.predict_batch
    mode = "compiled" if compiled else "eager"
    rows, works = [], []
    for model, build in builders.items():
        if model == "timm" and not with_timm:
            continue
        row = Row(task, precision, mode, model, batch)
        work, row.peak_gib = warmed_up(
            lambda build=build: build(scale, precision, compiled and scale.compiles), scale
        )
        rows.append(row)
        works.append(work)
    rates = [[images_per_second(w, batch, scale) for w in works] for _ in range(scale.rounds)]
    for number, row in enumerate(rows):
        row.images_per_second = statistics.median(r[number] for r in rates)
        row.ratio = statistics.median(r[number] / r[-1] for r in rates) if with_timm else row.ratio
    torch.compiler.reset()
    return rows


HEADER = (
    "| task | precision | mode | model | batch | images/s | peak GiB | over timm |\n"
    "|---|---|---|---|---|---|---|---|"
)


def table_line(row: Row) -> str:
    return (
        f"| {row.task} | {row.precision} | {row.mode} | {row.model} | {row.batch} "
        f"| {row.images_per_second:.0f} | {row.peak_gib:.2f} | {row.ratio:.2f} |"
    )


def measure_speed(scale: Scale, deadline: float) -> list[Row]:
    plan = [
        ("training", "bf16", False),
        ("prediction", "bf16", False),
        ("training", "bf16", True),
        ("prediction", "bf16", True),
        ("training", "fp16", False),
        ("training", "fp32", False),
        ("prediction", "fp32", False),
    ]
    try:
        import engines.timm_reference  # noqa: F401

        with_timm = True
    except ImportError as error:
        print(f"  without timm: {error}")
        with_timm = False
    rows: list[Row] = []
    print(HEADER)
    for task, precision, compiled in plan:
        needed = 150 if compiled and scale.compiles else 20
        if time.monotonic() + needed > deadline:
            mode = "compiled" if compiled else "eager"
            print(f"({task} {precision} {mode} left out: no time left)")
            continue
        for row in compare(task, precision, compiled, scale, with_timm):
            rows.append(row)
            print(table_line(row), flush=True)
    return rows


# The run ------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of it")
    parser.add_argument("--cpu-dry-run", action="store_true", help="the same code, tiny, on CPU")
    args = parser.parse_args(argv)
    if not args.cpu_dry_run and not torch.cuda.is_available():
        print(
            f"benchmarks/gpu.py needs a CUDA device and PyTorch {torch.__version__} sees none; "
            "--cpu-dry-run runs its code on the CPU"
        )
        return 1
    scale = DRY if args.cpu_dry_run else REAL
    deadline = time.monotonic() + 60 * args.minutes
    device = "CPU, dry run" if args.cpu_dry_run else torch.cuda.get_device_name()
    print(f"{device}; PyTorch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    checks = Checks()
    print("Checks")
    check_logits(checks, scale)
    check_state(checks, scale)
    check_curves(checks, scale)
    print("Speed")
    rows = measure_speed(scale, deadline)
    if args.json:
        results = {
            "device": device,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "checks": checks.records,
            "speed": [asdict(row) for row in rows],
        }
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(record["passed"] for record in checks.records) else 1


if __name__ == "__main__":
    sys.exit(main())
