"""The public functions: load, train, export, and the model that they share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from .config import Config, DataConfig, EngineConfig, EngineName, run_data
from .engines.base import create_engine
from .errors import UserError
from .evaluate import Difference, EvaluateOptions, Evaluation, compare_folder, evaluate_folder
from .exporters import run as exporters
from .exporters.options import ExportOptions
from .exporters.report import ExportReport
from .model.spec import InputSpec
from .predict import ImageLike, Prediction, predict
from .runtimes.artifact import INPUT_NAME
from .runtimes.base import Runtime, create_runtime
from .runtimes.formats import ArtifactPrecision
from .training.log import Reporter, console_reporter, read_metrics
from .training.metrics import Metrics
from .weights.hub import local_copy
from .weights.load import load_weights, model_spec

_log = logging.getLogger(__name__)
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
"""Files with these endings hold weights; others are artifacts, which runtimes open."""


class Model:
    """A trained classifier, ready to predict. Made by `load`.

    Use it from one thread at a time; `close` it, or use it in a `with` block, to free the device.

    >>> with seresnext.load("runs/mine") as model:
    ...     model.class_names
    ('cat', 'dog')
    """

    def __init__(self, runtime: Runtime, path: Path) -> None:
        self.runtime = runtime
        """What computes: an engine or a runtime; its `name` and `device` are for people."""
        self.path = path
        """Where the model was loaded from."""
        self.reading: DataConfig = run_data(path)
        """How images are found and read: the settings of the run, if it is one's model. Assign
        others to change links, pixel limit, or the share that was held out."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class index -> name.

        >>> seresnext.load("runs/mine").class_names[0]
        'cat'
        """
        return self.runtime.spec.class_names

    @property
    def input(self) -> InputSpec:
        """The preprocessing that the model expects: size in pixels, crop, filter, mean, std.

        >>> seresnext.load("runs/mine").input.image_size
        32
        """
        return self.runtime.spec.input

    @overload
    def predict(self, images: ImageLike, *, top: int = 5) -> Prediction: ...
    @overload
    def predict(
        self, images: list[ImageLike] | tuple[ImageLike, ...], *, top: int = 5
    ) -> list[Prediction]: ...
    def predict(
        self, images: ImageLike | list[ImageLike] | tuple[ImageLike, ...], *, top: int = 5
    ) -> Prediction | list[Prediction]:
        """Return the `top` most probable classes of an image, or of each image of a list.

        An image is a path, the bytes of an image file, a Pillow image, or a uint8 array
        [H, W, 3] in RGB; it is preprocessed as in evaluation. An unreadable image of a list gets a
        `Prediction` with `error` and does not affect the others; an unreadable single image raises
        UserError.

        >>> model = seresnext.load("runs/mine")
        >>> model.predict("cat.jpg").classes[0]
        'cat'
        >>> [p.error for p in model.predict(["cat.jpg", b"not an image"])]
        ['', 'no image that is known; expected JPEG, PNG, WebP, AVIF, HEIC, GIF, TIFF or BMP']
        """
        if isinstance(images, list | tuple):
            return list(self.predict_each(images, top=top))
        prediction = next(self.predict_each([images], top=top))
        if prediction.error:
            raise UserError(f"cannot read image {prediction.file}: {prediction.error}")
        return prediction

    def predict_each(
        self, images: Iterable[ImageLike], *, top: int = 5, batch_size: int = 32
    ) -> Iterator[Prediction]:
        """Yield a `Prediction` per image as `predict` does, holding two batches in memory at most.

        >>> model = seresnext.load("runs/mine")
        >>> files = sorted(Path("photos/val").glob("*/*.png"))
        >>> sum(p.classes[0] == Path(p.file).parent.name for p in model.predict_each(files))
        6
        """
        return predict(
            self.runtime,
            images,
            top=top,
            batch_size=batch_size,
            max_pixels=self.reading.max_pixels,
        )

    def logits(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return float32 logits [N, K] of preprocessed pixels, uint8 [N, S, S, 3] in RGB.

        S is `input.image_size`; normalisation is done here. Raises UserError for another array.

        >>> model = seresnext.load("runs/mine")
        >>> model.logits(np.zeros((4, 32, 32, 3), np.uint8)).shape
        (4, 2)
        """
        side = self.input.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
            raise UserError(
                f"logits: expected uint8 [N, {side}, {side}, 3], got {images.dtype} "
                f"{list(images.shape)}"
            )
        return self.runtime.predict(images)

    def evaluate(
        self,
        data: str | Path,
        *,
        batch_size: int = 64,
        workers: int = 0,
        on_bad_image: Literal["stop", "skip"] | None = None,
        image_size: int | None = None,
        crop_ratio: float | None = None,
        flip: bool = False,
        present_classes: bool = False,
        real_labels: str | Path | None = None,
    ) -> Evaluation:
        """Return accuracy, loss and calibration on labelled images; every image counts once.

        `data` holds `val/<class>/` (or valid, validation, test), or `<class>/` itself, or is a
        list; of a run's own data without splits, the images that the run held out count.
        `batch_size` does not change the result. `workers` decode; 0 means one per core.
        `image_size` and `crop_ratio` replace the model's own (an artifact's size is fixed). `flip`
        answers by the mean of the logits for an image and its mirror image, at twice the work.
        `present_classes` chooses among the classes that have images here, as ImageNet-A and
        ImageNet-R are evaluated. `real_labels` is the file of ReaL labels, several right classes
        for each of ImageNet's validation images. Raises UserError for a folder of another layout
        and for an unreadable image, unless `on_bad_image` is "skip" (by default as in the run).

        >>> seresnext.load("runs/mine").evaluate("photos").top1
        1.0
        """
        options = EvaluateOptions(
            batch_size=batch_size,
            workers=workers,
            on_bad_image=on_bad_image,
            reading=self.reading,
            image_size=image_size,
            crop_ratio=crop_ratio,
            flip=flip,
            present_classes=present_classes,
            real_labels=Path(real_labels) if real_labels is not None else None,
        )
        return evaluate_folder(self.runtime, data, options)

    def compare(
        self,
        other: Model,
        data: str | Path,
        *,
        batch_size: int = 64,
        workers: int = 0,
        on_bad_image: Literal["stop", "skip"] | None = None,
        image_size: int | None = None,
        crop_ratio: float | None = None,
        flip: bool = False,
        present_classes: bool = False,
    ) -> Difference:
        """Evaluate this model and another on the same images, and test whether they differ.

        The arguments are those of `evaluate`; both models get the images that it takes, each with
        its own preprocessing. Raises UserError, also for models of other classes.

        >>> model = seresnext.load("runs/mine")
        >>> model.compare(seresnext.load("runs/mine"), "photos").difference
        0.0
        """
        options = EvaluateOptions(
            batch_size=batch_size,
            workers=workers,
            on_bad_image=on_bad_image,
            reading=self.reading,
            image_size=image_size,
            crop_ratio=crop_ratio,
            flip=flip,
            present_classes=present_classes,
        )
        return compare_folder(self.runtime, other.runtime, data, options)

    def close(self) -> None:
        """Free the device. The model is not used afterwards.

        >>> seresnext.load("runs/mine").close()
        """
        self.runtime.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        runtime = self.runtime
        return f"<seresnext.Model {self.path}: {runtime.name} on {runtime.device}>"


def load(
    path: str | Path, *, engine: EngineName = "torch", device: str = "auto", threads: int = 0
) -> Model:
    """Load a model from wherever it is stored; the format is detected from the content.

    `path` is a run folder, a model folder, an artifact of `export` (.onnx, .xml, .mindir, .pt2), or
    weights of timm, mindcv or the original model zoo (.safetensors, .pth, .ckpt, timm's folder), or
    a model of the Hugging Face hub by name (`timm/NAME`, `hf:OWNER/NAME@REVISION`; extra hub).
    `engine` ("torch", "mindspore") computes everything but artifacts. `device` is where: auto, cpu,
    cuda, cuda:N, npu, mps, ascend. `threads` of the CPU; 0 leaves the number to the framework.
    Raises UserError for a file that is missing, damaged or of another kind.

    >>> seresnext.load("runs/mine")
    <seresnext.Model runs/mine: torch on cpu...>
    """
    path = local_copy(path)
    if not path.is_dir() and path.suffix not in _WEIGHTS:
        return Model(create_runtime(path, device=device, engine=engine, threads=threads), path)
    loaded = load_weights(path)
    spec, assumed = model_spec(loaded)
    for note in loaded.notes:
        _log.info("%s: %s", path.name, note)
    for note in assumed:
        _log.warning("%s: %s", path.name, note)
    settings = EngineConfig(name=engine, device=device, threads=threads)
    return Model(create_engine(spec, loaded.weights, settings), path)


@dataclass(frozen=True)
class TrainResult:
    """What `train` leaves.

    >>> seresnext.TrainResult(Path("runs/mine"), None).history[0]["step"]
    1
    """

    out: Path
    """The run folder."""
    metrics: Metrics | None
    """Of the model; None without validation images."""

    @property
    def model(self) -> Model:
        """The finished model, loaded from the run folder.

        >>> seresnext.TrainResult(Path("runs/mine"), None).model.class_names
        ('cat', 'dog')
        """
        return load(self.out)

    @property
    def history(self) -> list[dict[str, float]]:
        """The records of `metrics.jsonl`: `step`, `epoch`, and `train/loss`, `train/top1`, `lr`,
        `images_per_second`, or `val/top1`, `val/top5`, `val/loss`.

        >>> [r["val/top1"] for r in seresnext.TrainResult(Path("runs/mine"), None).history
        ...  if "val/top1" in r][-1]
        1.0
        """
        return read_metrics(self.out)


def train(config: Config, *, reporter: Reporter | None = None) -> TrainResult:
    """Train by `config`, going on from where its run folder stands.

    Progress is shown on the terminal unless a `reporter` takes it. Raises UserError for what the
    user can fix, and Interrupted after SIGINT or SIGTERM, with the state saved: the same call then
    goes on. Several processes: `seresnext train --nproc N`, or torchrun.

    >>> config = seresnext.recipe("demo").replace(data="photos", out="runs/new")
    >>> result = seresnext.train(config.replace(epochs=1, batch_size=4))
    seresnext50_32x4d on torch cpu...
    >>> result.metrics.images
    6
    """
    from .training.loop import train as run_loop

    metrics = run_loop(config.check(), reporter or console_reporter())
    return TrainResult(Path(config.run.out), metrics)


def export(
    model: Model | str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    precision: ArtifactPrecision | None = None,
    data: str | Path | None = None,
    calibration: str | Path | None = None,
    follow_links: bool | None = None,
    max_pixels: int | None = None,
    with_cam: bool = False,
    with_preprocessing: bool = False,
    batch_size: int = 0,
    input_name: str = INPUT_NAME,
    max_drop: float = 0.5,
    max_images: int = 1000,
    engine: EngineName = "torch",
    device: str = "auto",
    ort: str | Path | None = None,
    workers: int = 0,
) -> ExportReport:
    """Write a run or model folder as an artifact, compare it with the engine, return the report.

    `format` follows from the suffix of `out` where it is not given: .onnx, .xml (OpenVINO),
    .mindir, .air, .pt2 (torch.export). `format="web"` makes `out` a folder: a page that classifies
    in the browser, with the files of npm's onnxruntime-web from `ort` (folder or .tgz; by default
    npm downloads it). `precision` is fp32 (the default, but of web fp16), fp16 or int8; int8
    measures ranges on `calibration` images (by default the run's training data) and may lose
    `max_drop` points of accuracy. `data` holds labelled images for the comparison (by default the
    run's validation data), of which `max_images` are taken. `follow_links` and `max_pixels` are the
    run's by default. `with_cam` adds the output `class_activation_maps`, float32 [B, K, h, w]
    (.onnx, .xml). `with_preprocessing` makes the input uint8 [B, S, S, 3] instead of normalised
    float32 [B, 3, S, S]. `batch_size` fixes B, which is free
    otherwise, and `input_name` names the input (.onnx, .mindir, .air). `engine` and `device`
    compute the reference. An artifact outside the tolerance of its precision raises UserError and
    replaces no earlier file.

    >>> report = seresnext.export("runs/mine", "mine.onnx", data="photos")
    >>> report.comparison.agreement
    1.0
    """
    options = ExportOptions(
        format=format,
        precision=precision,
        calibration=Path(calibration) if calibration else None,
        data=Path(data) if data else None,
        follow_links=follow_links,
        max_pixels=max_pixels,
        with_cam=with_cam,
        with_preprocessing=with_preprocessing,
        batch_size=batch_size,
        input_name=input_name,
        max_drop=max_drop,
        max_images=max_images,
        engine=engine,
        device=device,
        ort=Path(ort) if ort else None,
        workers=workers,
    )
    path = model.path if isinstance(model, Model) else Path(model)
    return exporters.export(path, Path(out), options)
