"""The kinds of files that users hand in: how each is varied and opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fuzz import mutate


def _nothing() -> None:
    pass


class Kind(NamedTuple):
    variant: mutate.Mutation
    open_file: Callable[[Path], Any]
    prepare: Callable[[], object] = _nothing
    """Imports what opening needs, before the first fork."""


def open_image(path: Path) -> None:
    from seresnext.data.decode import decode_image
    from seresnext.data.jpeg import ImageError
    from seresnext.data.preprocess import preprocess
    from seresnext.errors import UserError
    from seresnext.model.spec import InputSpec

    try:
        preprocess(decode_image(path.read_bytes(), max_pixels=10_000_000), InputSpec(32))
    except ImageError as error:
        raise UserError(f"{path}: {error}") from None


def open_weights(path: Path) -> None:
    from seresnext.weights.load import load_weights, model_spec

    model_spec(load_weights(path))


def open_folder(path: Path) -> None:
    open_weights(path.parent)


def open_config(path: Path) -> None:
    from seresnext.config import load_config

    load_config(path).augment.input_spec()


def open_rank_table(path: Path) -> None:
    from seresnext.zoo.rank_table import read_rank_table

    read_rank_table(path)


def open_list(path: Path) -> None:
    from seresnext.data.sources.table import image_table, table_splits

    whole = image_table(path)
    assert len(whole.class_names) <= len(whole)
    for split in table_splits(path):
        assert 0 < len(image_table(path, split=split)) <= len(whole)


def open_yaml(path: Path) -> None:
    from seresnext.zoo.command import parse
    from seresnext.zoo.options import TrainOptions

    parse(TrainOptions, ["--config_path", str(path)], "train.py", flags=True)


def open_artifact(path: Path) -> None:
    from seresnext.runtimes.base import create_runtime

    runtime = create_runtime(path, threads=1)
    side = runtime.spec.input.image_size
    runtime.predict(np.zeros((2, side, side, 3), np.uint8))


def _import(*names: str) -> Callable[[], object]:
    return lambda: [__import__(name) for name in names]


_DATA = _import("seresnext.data.decode", "seresnext.data.preprocess", "seresnext.model.spec")
_WEIGHTS = _import("seresnext.weights.load")

KINDS = {
    "images": Kind(mutate.damaged, open_image, _DATA),
    "safetensors": Kind(mutate.odd_safetensors, open_weights, _WEIGHTS),
    "pth": Kind(mutate.odd_archive, open_weights, _WEIGHTS),
    "old-pth": Kind(mutate.damaged, open_weights, _WEIGHTS),
    "ckpt": Kind(mutate.damaged, open_weights, _WEIGHTS),
    "folders": Kind(mutate.odd_json, open_folder, _WEIGHTS),
    "configs": Kind(mutate.odd_json, open_config, _import("seresnext.config")),
    "rank-tables": Kind(mutate.odd_json, open_rank_table, _import("seresnext.zoo.rank_table")),
    "lists": Kind(mutate.damaged, open_list, _import("seresnext.data.sources.table")),
    "yaml": Kind(mutate.odd_json, open_yaml, _import("seresnext.zoo.command")),
    "onnx": Kind(mutate.odd_onnx, open_artifact, _import("seresnext.runtimes.onnx")),
    "openvino": Kind(mutate.odd_xml, open_artifact, _import("seresnext.runtimes.openvino")),
    "torch": Kind(mutate.odd_archive, open_artifact, _import("seresnext.runtimes.torch")),
    "mindir": Kind(mutate.signed_mindir, open_artifact, _import("seresnext.runtimes.mindir")),
}
