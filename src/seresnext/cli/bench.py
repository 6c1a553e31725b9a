"""`seresnext bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..files import to_json
from ..flags import Positional, parse
from .options import ComputeOptions, JsonOption, after_second_word


@dataclass(frozen=True, kw_only=True)
class BenchInferArgs(JsonOption, ComputeOptions):
    """Latency and throughput of models and artifacts, side by side.

    Each runs in its own process, in turn with the others; ratios are to the first one.
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


def run(argv: list[str]) -> int:
    argv = after_second_word(argv, "seresnext bench", "infer")
    args = parse(BenchInferArgs, argv, "seresnext bench infer")
    from ..bench import bench_infer, print_results

    options = {name: value for name, value in vars(args).items() if name != "json"}
    results = bench_infer(**options)
    if args.json:
        print(to_json([result.to_dict() for result in results]))
    else:
        print_results(results)
    return 0
