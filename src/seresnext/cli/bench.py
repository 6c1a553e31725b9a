"""`seresnext bench`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..config import EngineName, Precision
from ..config.recipes import recipe
from ..errors import UsageError
from ..files import to_json
from ..flags import Positional, parse
from .options import ComputeOptions, JsonOption, second_word
from .serve import require_extra


@dataclass(frozen=True, kw_only=True)
class BenchInferArgs(JsonOption, ComputeOptions):
    """Latency and throughput of models and artifacts, side by side.

    Each runs in its own process, in turn with the others; ratios are to the first one.
    `seresnext bench serve` measures a model behind the HTTP server, `seresnext bench train` a
    training step, and `seresnext bench loader` how fast its images are loaded.
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


@dataclass(frozen=True, kw_only=True)
class BenchLoaderArgs(JsonOption):
    """How fast training images are read, decoded and augmented, by number of threads.

    Images without a source are synthetic photographs of 500 x 375 pixels.
    """

    source: Positional[tuple[Path, ...]] = ()
    """Folder, list or archives, as train takes them."""
    recipe: str = "imagenet"
    """Whose augmentation; `seresnext recipes` lists them. With --peers its crops and flips only."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads."""
    images: int = 1024
    """Of each loader in each turn."""
    rounds: int = 5
    """Turns of each loader."""
    peers: bool = False
    """Also measure the loaders of mindspore.dataset, DALI, Pillow in threads and PyTorch's
    DataLoader, those that are installed."""


@dataclass(frozen=True, kw_only=True)
class BenchTrainArgs(JsonOption):
    """How fast a recipe's training step is on this machine, in several precisions.

    They take turns; ratios are to the first one. Pixels are at hand: `seresnext bench loader` says
    how fast images are loaded.
    """

    recipe: str = "imagenet"
    """Whose network, losses and optimizer; `seresnext recipes` lists them."""
    model: str | None = None
    """Network; `seresnext doctor` lists them."""
    batch_size: int = 16
    """Images per step."""
    image_size: int = 224
    """Side of the images, pixels."""
    engine: EngineName = "torch"
    """Framework."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N, npu, mps, ascend."""
    threads: int = 0
    """CPU threads; 0 leaves the number to the framework."""
    compile: bool = False
    """torch: compile the step with torch.compile, which takes minutes."""
    precisions: tuple[Precision, ...] = ()
    """Arithmetic of convolutions and matrix products. By default fp32, and with torch bf16."""
    steps: int = 3
    """Of each precision in each turn."""
    rounds: int = 5
    """Turns."""


def run(argv: list[str]) -> int:
    verbs = {"infer": _infer, "serve": _serve, "loader": _loader, "train": _train}
    word, argv = second_word(argv, "seresnext bench", tuple(verbs))
    return verbs[word](argv)


def _train(argv: list[str]) -> int:
    args = parse(BenchTrainArgs, argv, "seresnext bench train")
    from ..bench.train import bench_train, print_speeds

    base = recipe(args.recipe)
    config = base.replace(
        batch_size=args.batch_size,
        engine={
            "name": args.engine,
            "device": args.device,
            "threads": args.threads,
            "compile": args.compile,
            "fp16_batch_norm": False,
        },
        augment={"image_size": args.image_size, "start_size": 0},
        optim={"accumulate": 1},
    )
    if args.model:
        config = config.replace(model=args.model)
    usual: tuple[Precision, ...] = ("fp32", "bf16") if args.engine == "torch" else ("fp32",)
    speeds = bench_train(
        config, precisions=args.precisions or usual, steps=args.steps, rounds=args.rounds
    )
    if args.json:
        print(to_json([speed.to_dict() for speed in speeds]))
    else:
        print_speeds(config, speeds)
    return 0


def _loader(argv: list[str]) -> int:
    args = parse(BenchLoaderArgs, argv, "seresnext bench loader")
    if len(args.source) > 1:
        raise UsageError(f"expected one source, got {' '.join(map(str, args.source))}")
    from ..bench.loader import bench_loader, print_loading

    config = recipe(args.recipe)
    data = replace(config.data, root=str(args.source[0]) if args.source else "", drop_last=False)
    results = bench_loader(
        data,
        replace(config.augment, start_size=0, repeats=1),
        threads=args.threads,
        images=args.images,
        rounds=args.rounds,
        peers=args.peers,
    )
    if args.json:
        print(to_json([result.to_dict() for result in results]))
    else:
        print_loading(results)
    return 0


def _infer(argv: list[str]) -> int:
    args = parse(BenchInferArgs, argv, "seresnext bench infer")
    from ..bench.infer import bench_infer, print_results

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
