"""Evaluation: a predict function and batches in, exact metrics out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .batch import Batch, check_batch_size
from .config import DataConfig
from .data.loader import Reader, Share, eval_batches
from .data.sources import Part, evaluation_part, open_part
from .data.sources.names import composed, some
from .engines.base import Engine
from .errors import UserError
from .model.spec import InputSpec, ModelSpec
from .real_labels import RealAccuracy, read_real_labels, real_accuracy
from .report.results import Answers, Results
from .runtimes.base import Runtime
from .significance import difference_interval, mcnemar
from .temperature import LogitSample
from .training.metrics import Metrics, MetricSums

Predict = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Metrics):
    """Metrics on a folder of images, with how they were made and how sure the model is.

    >>> seresnext.load("runs/mine").evaluate("photos").image_size
    32
    """

    calibration_error: float
    """Expected calibration error in 15 bins, 0 to 1 (Guo et al. 2017)."""
    temperature: float | None
    """What the logits would have to be divided by for the least loss on these images; above 1 the
    model is too sure. None where no number does, such as where every answer is right."""
    classes: int
    """Classes that the answers were chosen among."""
    classes_present: int
    """Those of them that have images here."""
    image_size: int
    crop_ratio: float
    flip: bool
    """Whether the answers are those for an image and its mirror image together."""
    real: RealAccuracy | None
    """By the ReaL labels, where they were given."""
    data: str
    """Which images these are."""
    unread_images: tuple[str, ...]
    """Which images could not be read."""


@dataclass(frozen=True)
class Difference:
    """Two models on the same images.

    >>> model = seresnext.load("runs/mine")
    >>> model.compare(model, "photos").p_value
    1.0
    """

    first: Evaluation
    second: Evaluation
    only_first: int
    """Images that only the first model has right."""
    only_second: int
    difference: float
    """Top-1 of the first minus that of the second."""
    interval: tuple[float, float]
    """Of the difference, 95 %."""
    p_value: float
    """Probability of so uneven a count between equally good models (McNemar's exact test)."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"first": self.first.to_dict(), "second": self.second.to_dict()}


def evaluate(
    predict: Predict,
    batches: Iterable[Batch],
    all_sum: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
    unread: Callable[[], int] = lambda: 0,
    observe: Callable[[Batch, NDArray[Any]], None] = lambda batch, logits: None,
) -> Metrics:
    """Count every image of `batches` once and return the metrics over all ranks.

    `predict` is an engine's or a runtime's: uint8 [B, H, W, 3] -> float32 logits [B, K].
    `all_sum` adds the ranks' sums; counts are integers and the loss float64, so the result does
    not depend on the batch size, and top-1 not on the world size. `unread` returns at the end how
    many images this rank could not read. `observe` is given every batch with its logits.
    """
    sums = MetricSums()
    start = time.perf_counter()
    for batch in batches:
        logits = predict(batch.images)
        sums.add(logits, batch.labels, batch.mask)
        observe(batch, logits)
    sums.counts[3] = unread()
    sums.counts, sums.loss = all_sum(sums.counts), all_sum(sums.loss)
    return sums.result(time.perf_counter() - start)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How labelled images are evaluated."""

    batch_size: int = 64
    workers: int = 0
    on_bad_image: Literal["stop", "skip"] | None = None
    """None as `reading` says."""
    reading: DataConfig | None = None
    """How images are found and read, and which ones a run held out."""
    image_size: int | None = None
    """None is the model's own."""
    crop_ratio: float | None = None
    flip: bool = False
    """Answer by the mean of the logits for an image and for its mirror image."""
    present_classes: bool = False
    """Choose among the classes that have images here."""
    real_labels: Path | None = None
    """File of ReaL labels, for ImageNet's validation images."""


def evaluate_folder(model: Runtime, data: str | Path, options: EvaluateOptions) -> Evaluation:
    """Evaluate an engine or a runtime on labelled images; `unread_images` lists the unreadable.

    `data` holds `val/<class>/` (or valid, validation, test), or `<class>/` itself, or is a list.
    Labels follow the model's class names. Raises UserError for a folder of another layout, for an
    unreadable image unless `on_bad_image` is "skip", and for an input that the model cannot take.
    """
    return _answers(model, _labelled(model, data, options), options)[0]


def compare_folder(
    first: Runtime, second: Runtime, data: str | Path, options: EvaluateOptions
) -> Difference:
    """Evaluate two models on the same labelled images, and test whether they differ.

    The images are those that `evaluate_folder` takes for the first model; each model gets them with
    its own preprocessing. Raises UserError as that does, and for models of other classes.
    """
    _check_classes(first.spec, second.spec, options)
    images = _labelled(first, data, options)
    one, answers = _answers(first, images, options)
    other, others = _answers(second, images, options)
    only_first = int((answers.right & ~others.right).sum())
    only_second = int((others.right & ~answers.right).sum())
    return Difference(
        one,
        other,
        only_first,
        only_second,
        one.top1 - other.top1,
        difference_interval(only_first, only_second, one.images),
        mcnemar(only_first, only_second),
    )


@dataclass(frozen=True)
class _Images:
    """Labelled images, and the classes that their labels are positions in."""

    part: Part
    reader: Reader
    classes: tuple[str, ...]


def _labelled(model: Runtime, data: str | Path, options: EvaluateOptions) -> _Images:
    reading = options.reading or DataConfig()
    part, classes = evaluation_part(Path(data), reading), model.spec.class_names

    def opened(classes: tuple[str, ...]) -> Reader:
        source = open_part(
            part,
            class_names=classes,
            allow_empty_classes=True,
            follow_links=reading.follow_links,
        )
        policy = options.on_bad_image or reading.on_bad_image
        return Reader(source, replace(reading, workers=options.workers, on_bad_image=policy))

    reader = opened(classes)
    if options.present_classes:
        classes = tuple(classes[k] for k in np.unique(reader.source.labels))
        reader = opened(classes)
    return _Images(part, reader, classes)


def _answers(
    model: Runtime, images: _Images, options: EvaluateOptions
) -> tuple[Evaluation, Results]:
    """Answers among `images.classes`, for every image."""
    seen = _input(model, options)
    check_batch_size(options.batch_size, seen.image_size, "--batch-size")
    columns = _columns(model.spec, images.classes)
    source = images.reader.source
    reader = Reader(source, images.reader.config)  # its own record of unreadable images
    answers, sample = Answers(len(source)), LogitSample(len(source), len(columns))

    def predict(pixels: NDArray[Any]) -> NDArray[Any]:
        logits = model.predict(pixels)
        if options.flip:
            logits = (logits + model.predict(np.ascontiguousarray(pixels[:, :, ::-1]))) / 2
        return logits[:, columns]

    def observe(batch: Batch, logits: NDArray[Any]) -> None:
        answers.add(batch, logits)
        sample.add(batch, logits)

    with closing(eval_batches(reader, seen, Share(options.batch_size))) as batches:
        metrics = evaluate(
            predict,
            batches,
            unread=lambda: reader.bad_images.count,
            observe=observe,
        )
    results = answers.results(images.classes, None)
    real = _by_real_labels(images, results, options)
    evaluation = Evaluation(
        **vars(metrics),
        calibration_error=results.calibration_error(),
        temperature=sample.temperature(),
        classes=len(columns),
        classes_present=len(np.unique(source.labels)),
        image_size=seen.image_size,
        crop_ratio=seen.crop_ratio,
        flip=options.flip,
        real=real,
        data=str(images.part),
        unread_images=tuple(reader.bad_images.names()),
    )
    return evaluation, results


def _by_real_labels(
    images: _Images, results: Results, options: EvaluateOptions
) -> RealAccuracy | None:
    if options.real_labels is None:
        return None
    if options.present_classes:
        raise UserError("--real-labels: expected all classes, without --present-classes")
    labels = read_real_labels(options.real_labels, len(images.classes))
    return real_accuracy(labels, images.reader.source, results)


def _input(model: Runtime, options: EvaluateOptions) -> InputSpec:
    """Return the model's preprocessing with what the options change. Raises UserError."""
    own = model.spec.input
    size = own.image_size if options.image_size is None else options.image_size
    ratio = own.crop_ratio if options.crop_ratio is None else options.crop_ratio
    if size != own.image_size and not isinstance(model, Engine):
        raise UserError(
            f"--image-size {size}: this file computes {own.image_size} px only; give the run or "
            "the weights that it was exported from"
        )
    changed = replace(own, image_size=size, crop_ratio=ratio)
    return replace(model.spec, input=changed).input  # checks the memory that the size takes


def _check_classes(first: ModelSpec, second: ModelSpec, options: EvaluateOptions) -> None:
    """Raise UserError unless both models can be asked for the same classes."""
    one, other = (set(map(composed, spec.class_names)) for spec in (first, second))
    if one != other and not options.present_classes:
        raise UserError(
            f"the two models have different classes ({some(sorted(one ^ other))} in one only); "
            "--present-classes compares them among the classes that the images have"
        )


def _columns(spec: ModelSpec, classes: tuple[str, ...]) -> list[int]:
    """Return the position of each class in a model's logits. Raises UserError."""
    positions = {composed(name): k for k, name in enumerate(spec.class_names)}
    missing = [name for name in classes if composed(name) not in positions]
    if missing:
        raise UserError(
            f"one of the models has no class {some(missing)}; compare models that have every class "
            "of the images"
        )
    return [positions[composed(name)] for name in classes]
