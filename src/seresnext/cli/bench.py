"""`seresnext bench`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..errors import UserError
from .options import ComputeOptions, JsonOption


@dataclass(frozen=True, kw_only=True)
class BenchInferArgs(JsonOption, ComputeOptions):
    """Latency and throughput of models and artifacts, side by side.

    They take turns, each in a process of its own; ratios are to the first one.
    """

    models: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, model folders, artifacts."""
    batch_sizes: tuple[int, ...] = (8, 32)
    """Tried for the throughput, beside 1."""
    rounds: int = 5
    """Turns that each takes."""
    seconds: float = 1.0
    """Of single images in each turn."""
    threads: int = 0
    """CPU threads; 0 leaves it to the framework."""


def run(argv: list[str]) -> int:
    if argv[:1] != ["infer"]:
        known = not argv or argv[0] in ("-h", "--help")
        print(
            "usage: seresnext bench infer MODEL... (see `seresnext bench infer --help`)",
            file=sys.stdout if known else sys.stderr,
        )
        return 0 if known else 2
    args = tyro.cli(BenchInferArgs, args=argv[1:], prog="seresnext bench infer")
    if not args.models:
        raise UserError("no model given; name at least one run, model folder or artifact")
    if min((*args.batch_sizes, args.rounds)) < 1 or args.seconds <= 0:
        raise UserError("--batch-sizes, --rounds and --seconds: expected positive numbers")
    from ..bench import bench_infer, print_results

    results = bench_infer(
        args.models,
        batch_sizes=args.batch_sizes,
        rounds=args.rounds,
        seconds=args.seconds,
        engine=args.engine,
        device=args.device,
        threads=args.threads,
    )
    if args.json:
        print(json.dumps([result.to_dict() for result in results]))
    else:
        print_results(results)
    return 0
