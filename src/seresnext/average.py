"""The average of models: checkpoints of a run (arXiv:1803.05407), or runs fine-tuned alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .batch import Batch, check_batch_size
from .config import DataConfig, EngineConfig, OptimConfig
from .data.loader import Reader, Share, eval_batches
from .data.sources import Subset, open_part, training_part
from .engines.base import create_engine
from .errors import UserError, printable
from .model.architecture import BN_MOMENTUM, Architecture, is_buffer
from .model.saved_model import save_model
from .model.spec import ModelSpec
from .weights.load import load_weights, model_spec

Tensors = dict[str, NDArray[Any]]

ALIKE = 0.5
"""Least cosine of two models' kernels below which their average is hardly a model. Checkpoints of
one run are at 0.9 and above in its second half; trainings from other random weights at 0."""


@dataclass(frozen=True)
class Average:
    """What was averaged and written."""

    models: tuple[Path, ...]
    out: Path
    alike: float
    """Least cosine of the first model's kernels with another's."""
    statistics: str = ""
    """The images that the BN statistics are from; empty: they are averaged."""

    def __str__(self) -> str:
        statistics = (
            f"measured on {self.statistics}"
            if self.statistics
            else "averaged; --data DIR measures them on images, which usually gives a better model"
        )
        lines = [f"averaged {len(self.models)} models", f"  BN statistics: {statistics}"]
        if self.alike < ALIKE:
            lines.append(
                f"  warning: the weights of the models have a cosine of {self.alike:.2f} only; the "
                "average of models that were trained apart is no better than random weights. "
                "Evaluate it before use"
            )
        return "\n".join(map(printable, [*lines, f"wrote {self.out}"]))


def average_weights(models: Sequence[Path]) -> tuple[ModelSpec, Tensors, float]:
    """Return the mean of the models' weights and BN statistics, and `Average.alike`.

    Raises UserError where the models differ in network, classes or input, or hold NaN or infinity.
    """
    if len(models) < 2:
        raise UserError(
            f"average needs two models or more, got {len(models)}; those of one run are its "
            "checkpoints, RUN/checkpoints/step-*"
        )
    first = load_weights(models[0])
    spec = model_spec(first)[0]
    sums = {name: np.zeros(array.shape) for name, array in first.weights.items()}
    alike = 1.0
    for path in models:
        loaded = load_weights(path)
        if apart := _difference(spec, model_spec(loaded)[0]):
            raise UserError(f"{path} and {models[0]} cannot be averaged: they differ in {apart}")
        for name, array in loaded.weights.items():
            if not np.isfinite(array).all():
                raise UserError(f"{path} holds NaN or infinity, in {name}; leave it out")
            sums[name] += array
        alike = min(alike, _cosine(first.weights, loaded.weights))
    means = {name: (total / len(models)).astype(np.float32) for name, total in sums.items()}
    return spec, means, alike


def average(
    models: Sequence[Path],
    out: Path,
    *,
    data: Path | None = None,
    reading: DataConfig | None = None,
    max_images: int = 2000,
    batch_size: int = 64,
    engine: EngineConfig | None = None,
) -> Average:
    """Write the average of models to the model folder `out`.

    With `data` (labelled images: its `train` split, if it has splits) the BN statistics are the
    means over batches of `max_images` images, as the averaged network sees them; without, they are
    averaged like the weights. `reading` says how images are read. Raises UserError, and then writes
    nothing, where models or images do not fit.
    """
    if out.is_file() or (out / "checkpoints").exists() or (out / "model").exists():
        raise UserError(f"--out {out} is a run or a file; expected a folder for the new model")
    spec, weights, alike = average_weights(models)
    if data is None:
        save_model(out, spec, weights)
        return Average(tuple(models), out, alike)
    check_batch_size(batch_size, spec.input.image_size, "--batch-size")
    reading = reading or DataConfig()
    part = training_part(data, reading)
    source = open_part(
        part,
        class_names=spec.class_names,
        allow_empty_classes=True,
        follow_links=reading.follow_links,
    )
    size = min(batch_size, max_images, len(source))
    if size < 2:
        raise UserError(f"BN statistics need two images or more in a batch, got {size} of {part}")
    # Shuffled, because a batch of one class has other statistics; whole batches only.
    order = np.random.default_rng(0).permutation(len(source))
    chosen = order[: min(max_images, len(source)) // size * size]
    reader = Reader(Subset(source, chosen), reading)
    with closing(eval_batches(reader, spec.input, Share(size))) as batches:
        statistics = measure_statistics(spec, weights, batches, engine or EngineConfig())
    save_model(out, spec, weights | statistics)
    return Average(tuple(models), out, alike, f"{len(chosen)} images of {part}")


def measure_statistics(
    spec: ModelSpec, weights: Tensors, batches: Iterable[Batch], engine: EngineConfig
) -> Tensors:
    """Return the network's BN statistics as means over the batches, each batch normalised by its
    own: those of `torch.optim.swa_utils.update_bn`.

    Batches with an unreadable image are left out. Raises UserError where none is left, and where
    the network's answers are not finite.
    """
    built = create_engine(
        replace(spec, architecture=_without_noise(spec.architecture)),
        weights,
        engine,
        OptimConfig(momentum=0.0, weight_decay=0.0),
    )
    names = [name for name in weights if is_buffer(name)]
    before = {name: weights[name].astype(np.float64) for name in names}
    sums = {name: np.zeros(before[name].shape) for name in names}
    count = 0
    with closing(built):
        for batch in batches:
            if not batch.mask.all():
                continue
            # At a rate of 0 a step changes nothing but the statistics, by BN_MOMENTUM.
            if built.fetch(built.train_step(batch, 0.0))["finite"] == 0:
                raise UserError("the averaged network answers NaN or infinity on these images")
            model = built.state_dict().model
            for name in names:
                after = model[name].astype(np.float64)
                sums[name] += before[name] + (after - before[name]) / BN_MOMENTUM
                before[name] = after
            count += 1
    if count == 0:
        raise UserError("no batch without an unreadable image is left to measure BN statistics on")
    return {name: (total / count).astype(np.float32) for name, total in sums.items()}


def _difference(ours: ModelSpec, theirs: ModelSpec) -> str:
    """Return in what two models differ; empty where they can be averaged."""
    if ours.class_names != theirs.class_names:
        return "their classes, or the order of these"
    pairs = (
        (_without_noise(ours.architecture), _without_noise(theirs.architecture)),
        (ours.input, theirs.input),
    )
    return "; ".join(
        f"{field} ({value!r}, {vars(a)[field]!r})"
        for a, b in pairs
        for field, value in vars(b).items()
        if value != vars(a)[field]
    )


def _without_noise(arch: Architecture) -> Architecture:
    """Return the architecture without what only its training needed."""
    return replace(arch, drop_path=0.0, dropout=0.0, zero_init_last_bn=True)


def _cosine(a: Tensors, b: Tensors) -> float:
    """Return the cosine of all kernels and matrices of two models as one vector each."""

    def dot(x: Tensors, y: Tensors) -> float:
        return sum(float(np.vdot(x[name], y[name])) for name in x if x[name].ndim > 1)

    return dot(a, b) / max(float(np.sqrt(dot(a, a) * dot(b, b))), 1e-30)
