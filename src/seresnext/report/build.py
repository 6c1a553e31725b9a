"""From a model, its images and run folders to what the report shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.decode import decode_image
from ..data.loader import Reader
from ..data.preprocess import preprocess
from ..engines.base import Activations, Engine
from ..files import replacing
from ..runtimes.base import Runtime
from ..significance import accuracy_interval
from .history import History, different_settings
from .maps import encode, maps_of, overlay
from .page import Content, Example, Gates, render
from .results import Results

EXAMPLES = 12
"""Images in each gallery."""
THUMBNAIL = 200
"""Side of a picture, pixels."""
_CLASSES, _IMAGES_OF_A_CLASS, _IMAGES_OF_ALL = 4, 8, 48
"""For the mean gates: so few that they take seconds on a CPU."""
_BATCH = 16


def examples(
    model: Runtime, reader: Reader, results: Results, positions: NDArray[np.int64]
) -> list[Example]:
    """Return these answers of `results` with pictures, and with maps where the model gives them."""
    indices = results.index[positions]
    pixels = [_pixels(model, reader, int(index)) for index in indices]
    maps: list[NDArray[np.float32] | None] = [None] * len(pixels)
    if class_maps := maps_of(model):
        found = [each for batch in _batches(pixels) for each in class_maps(batch)[1]]
        maps = [
            of_classes[k] if of_classes[k].size > 1 else None  # one place shows nothing
            for of_classes, k in zip(found, results.predicted[positions], strict=True)
        ]
    names = results.class_names
    return [
        Example(
            file=reader.source.describe(int(indices[i])),
            label=names[results.label[p]],
            predicted=names[results.predicted[p]],
            confidence=float(results.confidence[p]),
            own=float(results.own[p]),
            picture=encode(pixels[i], THUMBNAIL),
            overlay=None if (m := maps[i]) is None else encode(overlay(pixels[i], m), THUMBNAIL),
        )
        for i, p in enumerate(positions)
    ]


def mean_gates(engine: Engine, reader: Reader, results: Results) -> list[Gates]:
    """Return the mean gates of the last block of each stage: of some classes, and of all images."""
    groups = {
        results.class_names[c]: results.index[results.label == c][:_IMAGES_OF_A_CLASS]
        for c in _spread(np.unique(results.label), _CLASSES)
    }
    groups["all classes"] = _spread(results.index, _IMAGES_OF_ALL)
    means: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, indices in groups.items():
        pixels = [_pixels(engine, reader, int(index)) for index in indices]
        means[name] = _mean(map(engine.activations, _batches(pixels)))
    blocks = {name.partition(".")[0]: name for name in means["all classes"]}
    return [Gates(block, {n: m[block] for n, m in means.items()}) for block in blocks.values()]


def _mean(parts: Iterator[Activations]) -> dict[str, NDArray[np.float32]]:
    gates = [part.gates for part in parts]
    return {name: np.concatenate([g[name] for g in gates]).mean(0) for name in gates[0]}


def _batches(pixels: Sequence[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(pixels), _BATCH):
        yield np.stack(pixels[start : start + _BATCH])


def _pixels(model: Runtime, reader: Reader, index: int) -> NDArray[np.uint8]:
    """What the network saw of an image that could be read before."""
    image = decode_image(reader.source[index].data, max_pixels=reader.config.max_pixels)
    return np.asarray(preprocess(image, model.spec.input))


def _spread(values: NDArray[Any], count: int) -> NDArray[Any]:
    """At most `count` of the values, at equal distances."""
    positions = np.linspace(0, len(values) - 1, min(count, len(values))).astype(int)
    return np.asarray(values[np.unique(positions)])


def content(
    title: str,
    histories: Sequence[History],
    model: Runtime | None = None,
    reader: Reader | None = None,
    results: Results | None = None,
) -> Content:
    """Return all that the page shows: of the runs, and of one model's answers for its images."""
    if model is None or reader is None or results is None:
        return Content(title, "Training only: no labelled images were evaluated.", histories)
    spec = model.spec
    note = (
        f"{spec.architecture.name} on {model.name} {model.device}; {len(results.index)} images in "
        f"{len(spec.class_names)} classes at {spec.input.image_size} px"
    )
    return Content(
        title,
        note,
        histories,
        results,
        examples(model, reader, results, results.worst(EXAMPLES)),
        examples(model, reader, results, results.least_certain(EXAMPLES)),
        reader.bad_images.names(),
        mean_gates(model, reader, results) if isinstance(model, Engine) else (),
    )


def write_page(path: Path, shown: Content) -> None:
    """Write the HTML file, whole or not at all. Raises UserError."""
    with replacing(path) as temporary:
        temporary.write_text(render(shown), encoding="utf-8")


def numbers(content: Content) -> dict[str, Any]:
    """Return the figures of a report as plain data for JSON."""
    figures: dict[str, Any] = {
        "runs": [
            {"run": h.name, **h.summary(), "bad_steps": h.bad_steps} for h in content.histories
        ],
        "different_settings": different_settings(content.histories),
    }
    if results := content.results:
        summary, images = results.summary(), len(results.index)
        figures |= {
            "result": summary
            | {f"{n}_interval": accuracy_interval(summary[n], images) for n in ("top1", "top5")},
            "classes": [asdict(score) for score in results.class_scores()],
            "confused": [asdict(pair) for pair in results.confused_pairs(15)],
            "calibration": [asdict(bin) for bin in results.calibration()],
            "confusion": results.confusion().tolist(),
        }
    return figures
