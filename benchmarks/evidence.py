"""What helps, on small sets of real images, over several seeds: `make evidence`.

    python benchmarks/evidence.py --list
    python benchmarks/evidence.py labels transfer --seeds 5

Each table trains the same network for the same number of steps with one setting changed at a time;
the first row is what the others are compared with. A seed chooses the images, where there are more
than wanted, and seeds the run. Nothing is chosen by the test images: the last weights count. What
is done is kept in `data/evidence/results.jsonl`, so an interrupted call goes on.

The network has one block a stage, 8 groups, and sees 48 px, so that a run takes half a minute: what
helps here may not help a full network on ImageNet, and the reverse.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import seresnext
from _small_sets import Labelled, digits, emoji, mnist, per_class, write_list

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # timm's import beside a CPU PyTorch

Settings = Mapping[str, Any]
"""What `Config.replace` takes."""
ROOT = Path("data/evidence")


@dataclass(frozen=True)
class Task:
    """Images, and how long the network trains on them."""

    train: list[Labelled]
    test: list[Labelled]
    steps: int


@dataclass(frozen=True)
class Row:
    """One setting of a table."""

    name: str
    settings: Settings = field(default_factory=dict)
    start: Callable[[], str] | None = None
    """Returns the weights to start from."""
    steps: int | None = None
    """Instead of the task's."""
    train: Callable[[Task, int], float] | None = None
    """Another program's training, instead of ours: (task, seed) -> top-1."""


@dataclass(frozen=True)
class Table:
    """Rows on one task."""

    title: str
    task: Callable[[int], Task]
    """seed -> task"""
    rows: list[Row]


@dataclass(frozen=True)
class Result:
    """A finished run, as a line of the results."""

    table: str
    row: str
    seed: int
    top1: float
    seconds: float


class Silent:
    """A reporter that shows nothing."""

    def message(self, text: str) -> None: ...
    def started(self, step: int, total_steps: int, steps_per_epoch: float) -> None: ...
    def metrics(self, record: dict[str, float]) -> None: ...
    def close(self) -> None: ...


# Tasks --------------------------------------------------------------------------------------


def few_digits(count: int | list[int], steps: int = 300) -> Callable[[int], Task]:
    """Digits of scikit-learn, so many of each class."""

    def task(seed: int) -> Task:
        train, test = digits(ROOT)
        return Task(per_class(train, count, seed), test, steps)

    return task


def animals(vendors: int = 3, steps: int = 600) -> Callable[[int], Task]:
    """Emoji of animals as one to three vendors draw them, tested on Twitter's."""

    def task(seed: int) -> Task:
        drawn = emoji(ROOT, animals=True)
        others = [vendor for vendor in sorted(drawn) if vendor != "twitter"]
        chosen = [others[(seed + i) % 3] for i in range(vendors)]
        return Task([image for v in chosen for image in drawn[v]], drawn["twitter"], steps)

    return task


LONG_TAIL = [round(100 * 50 ** (-i / 9)) for i in range(10)]
"""Images of each digit, from 100 to 2."""


# Settings -----------------------------------------------------------------------------------

SIZE = 48
SMALL: Settings = {"layers": (1, 1, 1, 1), "cardinality": 8}
PICTURES: Settings = {
    "augment": {
        "crop_scale": (0.5, 1.0),
        "crop_ratio": (3 / 4, 4 / 3),
        "hflip": 0.5,
        "color_jitter": (0.2, 0.2, 0.2, 0.05),
    }
}
"""The augmentation of the tables of emoji, beside the digits' shift and rotation."""
CROPS: Settings = {
    "augment": {"shift": 0, "rotate": 0.0, "crop_scale": (0.5, 1.0), "crop_ratio": (3 / 4, 4 / 3)}
}
"""Augmentation that timm has, too."""


def merged(*several: Settings) -> dict[str, Any]:
    """Merge settings group by group, the later first."""
    out: dict[str, Any] = {}
    for settings in several:
        for name, value in settings.items():
            out[name] = {**out.get(name, {}), **value} if isinstance(value, Mapping) else value
    return out


def configuration(task: Task, settings: Settings, seed: int, folder: Path) -> seresnext.Config:
    """Return the run of a task."""
    common: Settings = {
        "data": write_list(folder / "images.csv", task.train, task.test),
        "out": str(folder / "run"),
        "seed": seed,
        "batch_size": 16,
        "image_size": SIZE,
        "model": SMALL,
        "schedule": {"warmup": f"{task.steps // 10} steps"},
        "engine": {"threads": 1},
        "run": {
            "duration": f"{task.steps} steps",
            "eval_every": "",
            "save_every": f"{task.steps} steps",
            "report": False,
        },
    }
    groups = merged({k: v for k, v in common.items() if isinstance(v, Mapping)}, settings)
    names = {k: v for k, v in common.items() if not isinstance(v, Mapping)}
    return seresnext.recipe("demo").replace(**names).replace(**groups)


def pretrained(name: str, task: Callable[[int], Task], settings: Settings) -> Callable[[], str]:
    """Return what trains a network once and says where its weights are."""

    def weights() -> str:
        model = ROOT / "pretrained" / name / "model"
        if not model.exists():
            with tempfile.TemporaryDirectory(dir=ROOT) as folder:
                config = configuration(task(0), settings, 0, Path(folder))
                top1 = seresnext.train(config, reporter=Silent()).metrics.top1
                print(f"pretrained {name}: {top1:.1%}", flush=True)
                model.parent.mkdir(parents=True)
                shutil.move(Path(config.run.out) / "model", model)
        return str(model)

    return weights


def all_mnist(seed: int) -> Task:
    images = mnist(ROOT)
    return Task([x for i, x in enumerate(images) if i % 20], images[::20], 2000)


def all_other_emoji(seed: int) -> Task:
    drawn = emoji(ROOT, animals=False)
    return Task([image for found in drawn.values() for image in found], drawn["twitter"], 4000)


def timm_training(task: Task, seed: int) -> float:
    """Return the top-1 of timm's network, loader, loss, optimizer and schedule, set as ours."""
    import torch

    from engines.timm_reference import timm

    # isort: split
    from timm.data import ImageDataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    torch.manual_seed(seed)
    random.seed(seed)
    classes = sorted({name for _, name in task.train})
    loaders = []
    for images, training in ((task.train, True), (task.test, False)):
        dataset = ImageDataset(str(ROOT), reader=_Listed(images, classes))
        loaders.append(
            create_loader(
                dataset,
                (3, SIZE, SIZE),
                16,
                is_training=training,
                scale=(0.5, 1.0),
                hflip=0.0,
                color_jitter=None,
                interpolation="bilinear",
                crop_pct=1.0,
                num_workers=0,
                use_prefetcher=False,
                device=torch.device("cpu"),
            )
        )
    model = timm.create_model(
        "seresnext50_32x4d", num_classes=len(classes), zero_init_last=True, **SMALL
    ).to(memory_format=torch.channels_last)
    lr = 0.24 * 16 / 256
    optimizer = create_optimizer_v2(model, "sgd", lr=lr, weight_decay=1e-4, momentum=0.9)
    warmup = task.steps // 10
    schedule = CosineLRScheduler(
        optimizer, task.steps, warmup_t=warmup, warmup_prefix=False, t_in_epochs=False
    )
    loss, step = LabelSmoothingCrossEntropy(0.1), 0
    while step < task.steps:
        model.train()
        for pixels, labels in loaders[0]:
            schedule.step_update(step)
            optimizer.zero_grad()
            loss(model(pixels.to(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()
            step += 1
            if step == task.steps:
                break
    model.eval()
    with torch.inference_mode():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in loaders[1])
    return right / len(task.test)


class _Listed:
    """timm's reader protocol for a list of images."""

    def __init__(self, images: list[Labelled], classes: list[str]) -> None:
        self.images = [(path, classes.index(name)) for path, name in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.images[index]
        return io.BytesIO(path.read_bytes()), label


# Tables -------------------------------------------------------------------------------------


def tables() -> dict[str, Table]:
    """Return the tables by name."""
    from_mnist = pretrained("mnist", all_mnist, {})
    from_emoji = pretrained("emoji", all_other_emoji, PICTURES)
    found: dict[str, Table] = {}
    still = {"augment": {"shift": 0, "rotate": 0.0}}
    for count in (2, 5, 20):
        found[f"labels-{count}"] = Table(
            f"Digits, {count} of each class, 300 steps",
            few_digits(count),
            [
                Row("shifted and turned"),
                Row("neither", still),
                Row("mixup 0.2", {"augment": {"mixup": 0.2}}),
                Row("average of weights, 0.98", {"optim": {"ema_decay": 0.98}}),
            ],
        )
    found["imbalance"] = Table(
        "Digits, 100 of the commonest class to 2 of the rarest, 400 steps; tested on all alike",
        few_digits(LONG_TAIL, 400),
        [
            Row("nothing"),
            Row("data.balance", {"data": {"balance": True}}),
            Row("loss.class_balance 1", {"loss": {"class_balance": 1.0}}),
            Row("loss.class_balance 0.99", {"loss": {"class_balance": 0.99}}),
            Row("loss.focal_gamma 2", {"loss": {"focal_gamma": 2.0}}),
        ],
    )
    for count in (1, 2, 5, 20):
        found[f"transfer-digits-{count}"] = Table(
            f"Digits, {count} of each class, 300 steps",
            few_digits(count),
            [Row("random weights"), Row("from 9,500 digits of MNIST", start=from_mnist)],
        )
    lengths = (60, 30, 120, 250, 500)
    for count in (5, 20):
        found[f"length-{count}"] = Table(
            f"Digits, {count} of each class, from 9,500 digits of MNIST",
            few_digits(count),
            [Row(f"{n} steps of 16", start=from_mnist, steps=n) for n in lengths],
        )
    for vendors in (1, 2, 3):
        found[f"transfer-emoji-{vendors}"] = Table(
            f"Animals as {vendors} of 3 vendors draw them, 600 steps; tested on the fourth's",
            animals(vendors),
            [
                Row("random weights", PICTURES),
                Row("from emoji of other things", PICTURES, start=from_emoji),
            ],
        )
    parts: dict[str, Settings] = {
        "all below off": {},
        "no label smoothing": {"loss": {"label_smoothing": 0.0}},
        "binary loss, lr x 4": {"loss": {"kind": "binary"}, "optim": {"lr_per_256": 0.96}},
        "mixup 0.2": {"augment": {"mixup": 0.2}},
        "CutMix 1": {"augment": {"cutmix": 1.0}},
        "three-augment": {"augment": {"three_augment": 1.0}},
        "random erasing 0.25": {"augment": {"erase": 0.25}},
        "RandAugment": {"augment": {"policy": "rand-m7-n2-mstd0.5-inc1"}},
        "TrivialAugment": {"augment": {"policy": "trivial"}},
        "2 repeats": {"augment": {"repeats": 2}},
        "drop path 0.1": {"model": {"drop_path": 0.1}},
        "average of weights, 0.99": {"optim": {"ema_decay": 0.99}},
        "AdamW 1e-3, decay 0.05": {"optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05}},
        "LAMB 5e-3, decay 0.02": {"optim": {"name": "lamb", "lr": 5e-3, "weight_decay": 0.02}},
    }
    found["parts"] = Table(
        "Animals as 3 vendors draw them, 600 steps; tested on the fourth's",
        animals(3),
        [Row(name, merged(PICTURES, part)) for name, part in parts.items()],
    )
    found["timm"] = Table(
        "Digits, 50 of each class, 400 steps, random crops; timm's training, set as ours",
        few_digits(50, 400),
        [Row("ours", CROPS), Row("timm", train=timm_training)],
    )
    return found


# Running and showing ------------------------------------------------------------------------


def run(name: str, table: Table, row: Row, seed: int) -> Result:
    """Train once."""
    task = table.task(seed)
    if row.steps:
        task = replace(task, steps=row.steps)
    settings = merged(row.settings, {"run": {"pretrained": row.start()}} if row.start else {})
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        begin = time.perf_counter()
        if row.train:
            top1 = row.train(task, seed)
        else:
            config = configuration(task, settings, seed, Path(folder))
            top1 = seresnext.train(config, reporter=Silent()).metrics.top1
        return Result(name, row.name, seed, top1, time.perf_counter() - begin)


def show(table: Table, results: list[Result]) -> str:
    """Return a table in Markdown: mean and deviation in percent, and the gain over the first row
    with its 95 % interval over seeds (Student's t on the differences)."""
    lines = [f"{table.title}.", "", "| | top-1 | gain | s |", "|---|---|---|---|"]
    first = {r.seed: r.top1 for r in results if r.row == table.rows[0].name}
    for row in table.rows:
        mine = [r for r in results if r.row == row.name]
        if not mine:
            continue
        tops = [100 * r.top1 for r in mine]
        gains = [100 * (r.top1 - first[r.seed]) for r in mine if r.seed in first]
        spread = statistics.stdev(tops) if len(tops) > 1 else math.nan
        seconds = statistics.median(r.seconds for r in mine)
        gain = _interval(gains) if row is not table.rows[0] and len(gains) > 1 else ""
        lines.append(
            f"| {row.name} | {statistics.mean(tops):.1f} ({spread:.1f}) | {gain} | {seconds:.0f} |"
        )
    return "\n".join(lines)


_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t of a two-sided 95 % interval, for 1 to 9 degrees of freedom."""


def _interval(gains: list[float]) -> str:
    t = _T[min(len(gains) - 1, len(_T)) - 1]
    half = t * statistics.stdev(gains) / math.sqrt(len(gains))
    return f"{statistics.mean(gains):+.1f} ± {half:.1f}"


def read_results(file: Path) -> list[Result]:
    """Return what was run before."""
    if not file.exists():
        return []
    return [Result(**json.loads(line)) for line in file.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="*", help="names, or their first parts; all by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--show", action="store_true", help="print what was run before")
    args = parser.parse_args()
    found = tables()
    first = tuple(f"{name}-" for name in args.tables or found)
    chosen = [name for name in found if f"{name}-".startswith(first)]
    if args.list:
        print("\n".join(found))
        return
    ROOT.mkdir(parents=True, exist_ok=True)
    file = ROOT / "results.jsonl"
    for name in chosen:
        table, seeds = found[name], range(0 if args.show else args.seeds)
        for seed, row in ((seed, row) for seed in seeds for row in table.rows):
            if any((r.table, r.row, r.seed) == (name, row.name, seed) for r in read_results(file)):
                continue
            result = run(name, table, row, seed)
            with file.open("a") as out:
                out.write(json.dumps(asdict(result)) + "\n")
            print(f"{name}, seed {seed}, {row.name}: {result.top1:.1%}", flush=True)
        print(f"\n{show(table, [r for r in read_results(file) if r.table == name])}\n", flush=True)


if __name__ == "__main__":
    main()
