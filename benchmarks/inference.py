"""Inference on the CPU at 224 px, batch 1: our artifacts beside plain exports of timm's model.

    python benchmarks/inference.py [--threads 2] [--rounds 40] [--json FILE]

One network (timm's seresnext50_32x4d with 1000 classes) and one set of weights for all. The peers
are what a user of timm gets: `torch.onnx.export` with its defaults, run by ONNX Runtime and by
OpenVINO with theirs. OpenVINO's default is bfloat16 if the CPU has it; that is shown too, but the
comparison is of equal precision: fp32 with fp32 (OpenVINO's precision hint set to f32), and
OpenVINO's default with our fp16 artifact. The peers start from normalised float images, ours from
uint8 pixels.

Each contestant runs in its own process. They take turns, with the others stopped, so that load from
other programs affects all of them. Printed are medians of the wall time and of the processor time,
and the medians of the rounds' ratios. On a busy machine the processor time of `--threads 1` is the
most reliable. int8 is calibrated on noise, which gives its speed, but not its accuracy.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # how timm is imported, in one place

from seresnext.exporters.base import load_exporter
from seresnext.machine import describe_cpu
from seresnext.model.architecture import architecture
from seresnext.model.spec import ModelSpec
from seresnext.runtimes.artifact import Artifact
from seresnext.runtimes.formats import FORMATS
from seresnext.runtimes.normalise import normalise

NAME, SIZE, CLASSES = "seresnext50_32x4d", 224, 1000
SPEC = ModelSpec(architecture(NAME), tuple(map(str, range(CLASSES))))


@dataclass(frozen=True)
class Contestant:
    label: str
    file: str
    kind: str
    """`ours`, `onnxruntime`, `openvino` (its default precision) or `openvino f32`."""


PEERS = (
    Contestant("timm, ONNX Runtime", "timm.onnx", "onnxruntime"),
    Contestant("timm, OpenVINO in f32", "timm.onnx", "openvino f32"),
)
LOOSE_PEER = Contestant("timm, OpenVINO by default", "timm.onnx", "openvino")
OURS = (
    Contestant("ours, OpenVINO fp32", "fp32.xml", "ours"),
    Contestant("ours, ONNX fp32", "fp32.onnx", "ours"),
    Contestant("ours, OpenVINO fp16", "fp16.xml", "ours"),
    Contestant("ours, OpenVINO int8", "int8.xml", "ours"),
    Contestant("ours, ONNX int8", "int8.onnx", "ours"),
)


def write_files(folder: Path) -> np.ndarray:
    """Write all models; return timm's logits for `image()`, float32 [1, K]."""
    import torch

    from engines.timm_reference import canonical, timm_model
    from seresnext.exporters import int8

    torch.manual_seed(0)
    model = timm_model(SPEC.architecture)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1)
    pixels = torch.from_numpy(normalise(image(), SPEC.input))
    with torch.inference_mode():
        logits = model.eval()(pixels).numpy()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (pixels,), folder / "timm.onnx", external_data=False)
    weights = canonical(model.state_dict())
    noise = np.random.default_rng(1).integers(0, 256, (16, SIZE, SIZE, 3), dtype=np.uint8)
    for contestant in OURS:
        path = folder / contestant.file
        described = Artifact(SPEC, "0" * 64, "benchmark", path.stem)
        exporter = load_exporter(next(f for f in FORMATS.values() if f.suffix == path.suffix))
        network = exporter.build(described, weights)
        if path.stem == "int8":
            network = int8.to_int8(network, noise, SPEC.input, ())
        exporter.write(network, described, path)
    return logits


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)


def predictor(contestant: Contestant, path: Path, threads: int) -> Callable[[], np.ndarray]:
    """One image -> logits [1, K]."""
    if contestant.kind == "ours":
        from seresnext.runtimes.base import create_runtime

        runtime, pixels = create_runtime(path, device="cpu", threads=threads), image()
        return lambda: runtime.predict(pixels)
    ready = normalise(image(), SPEC.input)
    if contestant.kind == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: ready})[0]
    import openvino

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if contestant.kind == "openvino f32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda: request.infer([ready])[0]


def work(connection: Connection, contestant: Contestant, path: Path, threads: int) -> None:
    """A contestant's process: send the logits, then a pair of times for each request."""
    run = predictor(contestant, path, threads)
    for _ in range(3):
        logits = np.array(run())
    connection.send(logits)
    while connection.recv():
        wall, processor = time.perf_counter(), time.process_time()
        run()
        connection.send((time.perf_counter() - wall, time.process_time() - processor))


def race(
    contestants: tuple[Contestant, ...], folder: Path, threads: int, rounds: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Each one's logits, and seconds [contestants, rounds, 2], wall and processor."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for contestant in contestants:
        ours, theirs = context.Pipe()
        task = (theirs, contestant, folder / contestant.file, threads)
        process = context.Process(target=work, args=task, daemon=True)
        process.start()
        workers.append((process, ours))
        theirs.close()
    logits = [connection.recv() for _, connection in workers]
    for process, _ in workers:
        os.kill(process.pid, signal.SIGSTOP)
    seconds = np.zeros((len(workers), rounds, 2))
    for turn in range(rounds):
        for row, (process, connection) in enumerate(workers):
            os.kill(process.pid, signal.SIGCONT)
            for _ in range(2):  # the first fills the caches again
                connection.send(True)
                seconds[row, turn] = connection.recv()
            os.kill(process.pid, signal.SIGSTOP)
    for process, _ in workers:
        process.kill()
    return logits, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    contestants = (*PEERS, LOOSE_PEER, *OURS)
    with tempfile.TemporaryDirectory() as folder:
        expected = write_files(Path(folder))
        logits, seconds = race(contestants, Path(folder), args.threads, args.rounds)
    # Wall time decides which peer is faster; with one thread, processor time.
    clock = 1 if args.threads == 1 else 0
    medians = np.median(seconds, axis=1)
    better = int(np.argmin(medians[: len(PEERS), clock]))

    def speed(row: int, other: int) -> float:
        return statistics.median(seconds[other, :, clock] / seconds[row, :, clock])

    print(f"{NAME}, {SIZE} px, batch 1, {args.threads} threads, {describe_cpu()}")
    print(f"{'':28}{'wall ms':>9}{'cpu ms':>9}{'speed':>8}{'logits off':>12}")
    rows = []
    for row, contestant in enumerate(contestants):
        off = float(np.abs(logits[row] - expected).max() / np.abs(expected).max())
        wall, processor = 1e3 * medians[row]
        ratio = speed(row, better)
        print(f"{contestant.label:28}{wall:9.1f}{processor:9.1f}{ratio:7.2f}x{off:12.1e}")
        rows.append(
            {
                "label": contestant.label,
                "wall_ms": wall,
                "cpu_ms": processor,
                "speed": ratio,
                "logits_off": off,
            }
        )
    named = {contestant.label: row for row, contestant in enumerate(contestants)}
    loose = speed(named["ours, OpenVINO fp16"], named[LOOSE_PEER.label])
    print(
        f"\nSpeed is against {contestants[better].label}, the better of the two in fp32.\n"
        f"fp32: {rows[named['ours, OpenVINO fp32']]['speed']:.2f}x (wanted: 1.0)\n"
        f"int8: {rows[named['ours, OpenVINO int8']]['speed']:.2f}x (wanted: 1.6)\n"
        f"half precision: our fp16 is {loose:.2f}x as fast as OpenVINO's default"
    )
    if args.json:
        report = {
            "machine": describe_cpu(),
            "threads": args.threads,
            "rows": rows,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
