"""`seresnext bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..files import to_json
from ..flags import Positional, parse
from .options import ComputeOptions, JsonOption, second_word
from .serve import require_extra


@dataclass(frozen=True, kw_only=True)
class BenchInferArgs(JsonOption, ComputeOptions):
    """Latency and throughput of models and artifacts, side by side.

    Each runs in its own process, in turn with the others; ratios are to the first one.
    `seresnext bench serve` measures a model behind the HTTP server.
    """

    models: Positional[tuple[Path, ...]]
    """Run folders, model folders, artifacts."""
    batch_sizes: tuple[int, ...] = (8, 32)
    """Batch sizes for the throughput, besides 1."""
    rounds: int = 5
    """Turns of each model."""
    seconds: float = 1.0
    """Duration of single images in each turn, seconds."""
    threads: int = 0
    """CPU threads; 0 leaves the number to the framework."""


@dataclass(frozen=True, kw_only=True)
class BenchServeArgs(JsonOption, ComputeOptions):
    """Load on `seresnext serve`, beside the model called in a loop and other servers.

    They take turns on this machine; ratios are to the runtime without a server.
    """

    model: Positional[Path]
    """Run folder, model folder, artifact or weights file."""
    clients: tuple[int, ...] = (1, 4, 16)
    """Requests at a time."""
    rounds: int = 3
    """Turns of each way."""
    seconds: float = 5.0
    """Duration of each turn with each number of clients, seconds."""
    threads: int = 0
    """CPU threads that compute; 0 leaves the number to the framework."""


def run(argv: list[str]) -> int:
    word, argv = second_word(argv, "seresnext bench", ("infer", "serve"))
    return _serve(argv) if word == "serve" else _infer(argv)


def _infer(argv: list[str]) -> int:
    args = parse(BenchInferArgs, argv, "seresnext bench infer")
    from ..bench import bench_infer, print_results

    options = {name: value for name, value in vars(args).items() if name != "json"}
    results = bench_infer(**options)
    if args.json:
        print(to_json([result.to_dict() for result in results]))
    else:
        print_results(results)
    return 0


def _serve(argv: list[str]) -> int:
    args = parse(BenchServeArgs, argv, "seresnext bench serve")
    require_extra("bench serve")
    from ..serve.bench import bench_serve, print_results

    options = {name: value for name, value in vars(args).items() if name != "json"}
    results = bench_serve(**options)
    if args.json:
        print(to_json([result.to_dict(results[0]) for result in results]))
    else:
        print_results(results)
    return 0
