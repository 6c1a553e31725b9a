"""Weights from anywhere: told by content, translated, every entry accounted for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors

from ..errors import UserError
from ..model.architecture import MODEL_NAMES, Architecture, weight_shapes
from ..model.init import init_weights
from ..model.saved_model import CONFIG_FILE, WEIGHTS_FILE, check_tensors, load_model
from ..model.spec import InputSpec, ModelSpec
from .ckpt import read_ckpt
from .pth import read_pth
from .translate import from_entries

HEAD = ("fc.weight", "fc.bias")
_STATE_FILE = "state.json"
"""Beside the weights of a training checkpoint; its `model` is a `ModelSpec`."""
_MAX_JSON_BYTES = 64 << 20
_SAFETENSORS_DTYPES = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


@dataclass(frozen=True)
class ForeignModel:
    """Weights as they were found, under canonical names."""

    path: Path
    layout: Literal["seresnext", "timm", "mindcv", "original"]
    """Whose file it is; `seresnext` where this package wrote it and nothing had to be guessed."""
    architecture: Architecture
    weights: dict[str, np.ndarray]
    """Canonical name -> float32, complete, in the network's order."""
    spec: ModelSpec | None
    """Class names and input, where they came with the weights."""
    momentum: dict[str, np.ndarray] = field(default_factory=dict)
    """SGD momentum by parameter, from a MindSpore training checkpoint; else empty."""
    momentum_entries: list[str] = field(default_factory=list)
    """Names under which the file holds it."""
    entries: int = 0
    """Entries in the file."""
    used: int = 0
    """Entries that became weights or momentum."""
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Why -> names of the entries that did not."""
    notes: list[str] = field(default_factory=list)
    """What a person should know about how it was read."""


def load_weights(path: str | Path) -> ForeignModel:
    """Open a run folder, a model folder (this package's or timm's) or a weights file.

    Files are told apart by content: safetensors, PyTorch's `.pth` (weights only), MindSpore's
    `.ckpt`. Raises UserError for anything else and for entries that do not fit, listing them.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.is_file():
        raise UserError(f"no weights at {path}: no such file or folder")
    if path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file():
        return _load_folder(path.parent)
    return _load_file(path, _spec_in(path.parent / _STATE_FILE, "model"))


def pretrained_weights(
    path: Path, arch: Architecture, seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(weights to start `arch` from, what to tell the user).

    Raises UserError where the weights do not fit, except for the count of classes.
    """
    foreign = load_weights(path)
    weights, notes = adapt_classifier(foreign, arch, seed)
    start = f"starting from {path} ({foreign.layout} layout, {foreign.architecture.name})"
    return weights, [start, *foreign.notes, *notes]


def adapt_classifier(
    foreign: ForeignModel, arch: Architecture, seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(weights for `arch`, notes): a classifier of another size starts anew from `seed`.

    Raises UserError when anything else differs, listing names.
    """
    found = foreign.architecture
    if found.max_pool != arch.max_pool:
        raise UserError(
            f"the weights of {foreign.path} belong to a network whose max-pool pads "
            f"{found.max_pool!r}, this one pads {arch.max_pool!r}, and its outputs would come out "
            f"some 20 % wrong; add --model.max-pool {found.max_pool}"
        )
    weights = dict(foreign.weights)
    notes = []
    if found.num_classes != arch.num_classes:
        fresh = init_weights(arch, seed)
        weights.update({name: fresh[name] for name in HEAD})
        notes.append(
            f"the classifier starts anew: {arch.num_classes} classes here, "
            f"{found.num_classes} in {foreign.path}"
        )
    what = f"the weights of {foreign.path} ({found.name}, asked for: {arch.name})"
    check_tensors(weight_shapes(arch), weights, what)
    return {name: weights[name] for name in weight_shapes(arch)}, notes


# Folders -----------------------------------------------------------------------------------


def _load_folder(folder: Path) -> ForeignModel:
    if (folder / "model" / CONFIG_FILE).is_file():
        folder = folder / "model"
    if _spec_in(folder / CONFIG_FILE, "seresnext"):
        spec, weights = load_model(folder)
        count = len(weights)
        arch = spec.architecture
        return ForeignModel(folder, "seresnext", arch, weights, spec, entries=count, used=count)
    spec_of_checkpoint = _spec_in(folder / _STATE_FILE, "model")
    names = ["ema.safetensors"] if spec_of_checkpoint else []
    names += [WEIGHTS_FILE, "pytorch_model.bin"]
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise UserError(
            f"{folder} is no model: expected a run folder that has finished, a folder with "
            f"{WEIGHTS_FILE} and {CONFIG_FILE}, or a single .safetensors, .pth or .ckpt file"
        )
    foreign = _load_file(file, spec_of_checkpoint)
    config = _read_json(folder / CONFIG_FILE)
    if foreign.layout != "timm" or not isinstance(config, dict) or "architecture" not in config:
        return foreign
    return _with_timm_config(foreign, config, folder / CONFIG_FILE)


def _spec_in(file: Path, key: str) -> ModelSpec | None:
    """The `ModelSpec` this package wrote into a JSON file, if the file is there and has one."""
    data = _read_json(file)
    if not isinstance(data, dict) or key not in data:
        return None
    return _spec_from(data[key], file)


def _spec_from(data: Any, where: Path) -> ModelSpec:
    try:
        return ModelSpec.from_dict(data)
    except UserError as error:
        raise UserError(f"{where} does not describe a model of this package ({error})") from None


def _read_json(file: Path) -> Any:
    """The content of a JSON file; None when there is no such file."""
    try:
        if not file.is_file():
            return None
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise UserError(f"{file} is larger than {_MAX_JSON_BYTES} bytes; refused")
        return _json(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


def _json(text: str | bytes, where: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None


def _with_timm_config(foreign: ForeignModel, config: dict[str, Any], file: Path) -> ForeignModel:
    """Add what timm's config.json says about the network, its classes and its input."""
    arch, notes = foreign.architecture, list(foreign.notes)
    name = str(config.get("architecture"))
    if not name.startswith(("seresnet", "seresnext")) or "aa" in name:
        # Anti-aliased and other variants have the same shapes; only the name tells them.
        raise UserError(
            f"{file} names the architecture {name!r}, which is not of this family "
            f"({', '.join(MODEL_NAMES)})"
        )
    labels = config.get("label_names")
    if not isinstance(labels, list) or len(labels) != arch.num_classes:
        labels = [str(index) for index in range(arch.num_classes)]
        notes.append("it names no classes; they are numbered")
    given = config.get("pretrained_cfg")
    given = given if isinstance(given, dict) else {}
    try:
        inputs = InputSpec(
            image_size=int(given.get("input_size", (3, 224, 224))[-1]),
            crop_ratio=float(given.get("crop_pct", 0.875)),
            interpolation="bilinear" if given.get("interpolation") == "bilinear" else "bicubic",
            resize="stretch" if given.get("crop_mode") == "squash" else "short",
            mean=tuple(float(v) for v in given.get("mean", InputSpec.mean)),  # type: ignore[arg-type]
            std=tuple(float(v) for v in given.get("std", InputSpec.std)),  # type: ignore[arg-type]
        )
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{file}: pretrained_cfg is not as timm writes it ({error})") from None
    spec = ModelSpec(arch, tuple(str(label) for label in labels), inputs)
    return replace(foreign, spec=spec, notes=notes)


# Files -------------------------------------------------------------------------------------


def _load_file(path: Path, spec: ModelSpec | None) -> ForeignModel:
    """A single weights file; `spec` where this package wrote one beside it."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    notes: list[str] = []
    entries: Mapping[str, np.ndarray]
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size:
        entries, metadata = read_safetensors(path)
        if "seresnext" in metadata:
            spec = _spec_from(_json(metadata["seresnext"], path), path)
    elif start.startswith((b"PK\x03\x04", b"\x80")):
        entries, notes = read_pth(path)
    elif start.startswith(b"\x0a"):
        entries = read_ckpt(path)
    else:
        pointer = start.startswith(b"version https://")
        raise UserError(
            f"{path} is not a safetensors, PyTorch or MindSpore weights file"
            + ("; it is a Git LFS pointer: run `git lfs pull` to get the file itself"
               if pointer else "")
        )  # fmt: skip
    found = from_entries(entries, str(path))
    foreign = ForeignModel(
        path=path,
        layout=found.layout,
        architecture=found.architecture,
        weights=found.weights,
        spec=None,
        momentum=found.momentum,
        momentum_entries=found.momentum_entries,
        entries=len(entries),
        used=found.used,
        dropped=found.dropped,
        notes=[*notes, *found.notes],
    )
    if spec is None:
        return foreign
    check_tensors(weight_shapes(spec.architecture), found.weights, f"the weights in {path}")
    return replace(foreign, layout="seresnext", architecture=spec.architecture, spec=spec)


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(name -> array, metadata); bfloat16 is widened to float32. Raises UserError."""
    try:
        raw = path.read_bytes()
        tensors = safetensors.deserialize(raw)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    arrays = {}
    for name, tensor in tensors:
        kind = tensor["dtype"]
        if kind not in _SAFETENSORS_DTYPES:
            raise UserError(f"{path}: entry {name!r} has type {kind}, which is not read here")
        array = np.frombuffer(tensor["data"], _SAFETENSORS_DTYPES[kind]).reshape(tensor["shape"])
        if kind == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = array
    return arrays, header.get("__metadata__", {})
