"""Open weights of any supported producer: run folders, model folders and weights files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import UserError, listed
from ..files import parse_json, read_json
from ..model.architecture import (
    Architecture,
    architecture,
    check_tensors,
    fit_biases,
    weight_shapes,
)
from ..model.init import init_weights
from ..model.saved_model import CONFIG_FILE, WEIGHTS_FILE
from ..model.spec import InputSpec, ModelSpec, parse_spec
from ..tensors import Entry, list_safetensors
from .ckpt import list_ckpt
from .hub import local_copy
from .layouts import with_biases
from .pth import list_pth
from .timm_config import read_timm_config
from .trained import find_trained
from .translate import LoadedWeights, from_entries

CLASSIFIER = ("fc.weight", "fc.bias")
_INDEX = ".index.json"
_SHARDED = (WEIGHTS_FILE, "pytorch_model.bin")
"""Files that Hugging Face's tools split; an index beside the parts says where each entry is."""
_STATE_FILE = "state.json"
"""Lies beside the weights of a training checkpoint; its `model` is a `ModelSpec`."""


def load_weights(path: str | Path) -> LoadedWeights:
    """Open a run folder, a model folder (this package's or timm's), a weights file or a hub's name.

    The format of a file is detected from its content: safetensors, PyTorch's `.pth` (weights only),
    MindSpore's `.ckpt`, or the index of files that were split. Raises UserError for anything else
    and for entries that do not fit, listing them.
    """
    path = local_copy(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.is_file():
        raise UserError(f"no weights at {path}: no such file or folder")
    if path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file():
        return _load_folder(path.parent)
    return _load_file(path, _spec_in(path.parent / _STATE_FILE, "model"))


def pretrained_weights(
    path: Path, arch: Architecture, seed: int, class_names: Sequence[str] = ()
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """(weights to start `arch` from, notes for the user).

    Where the weights are for other classes than `class_names`, the classifier is a new one,
    initialised from `seed`, but for the rows of classes that both have by name. Without a common
    name, as many classes keep the classifier as it is.
    Biases that only `arch` has start from zero.
    Raises UserError if anything else does not fit, listing names.
    """
    source = local_copy(path)
    loaded = load_weights(source)
    found = loaded.architecture
    if found.max_pool != arch.max_pool:
        raise UserError(
            f"the weights of {loaded.path} belong to a network whose max-pool pads "
            f"{found.max_pool!r}, this one pads {arch.max_pool!r}, and its outputs would come out "
            f"some 20 % wrong; add --model.max-pool {found.max_pool}"
        )
    if flags := fitting_network(found, arch):
        raise UserError(
            f"the weights of {loaded.path} belong to another network than the one to train; "
            f"add {flags}"
        )
    weights = dict(loaded.weights)
    notes = [f"starting from {path} ({loaded.layout} layout, {found.name})", *loaded.notes]
    if source != path:
        notes[0] += f", revision {source.name}"
    rows = _common_classes(loaded, class_names)
    same = [(k, k) for k in range(arch.num_classes)]
    if found.num_classes != arch.num_classes or (rows and rows != same):
        weights, note = _new_classifier(loaded, arch, seed, rows)
        notes.append(note)
    weights = fit_biases(
        weights,
        arch,
        "the network to train",
        "add --model.classifier-bias --model.se-bias to train one that has them",
    )
    what = f"the weights of {loaded.path} ({found.name}, asked for: {arch.name})"
    check_tensors(weight_shapes(arch), weights, what)
    return {name: weights[name] for name in weight_shapes(arch)}, notes


def _common_classes(loaded: LoadedWeights, class_names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (class here, class of the weights) of every name that both have."""
    theirs = loaded.spec.class_names if loaded.spec else ()
    if theirs == tuple(map(str, range(len(theirs)))):
        return []  # the numbers that stand for names that did not come with the weights
    number = {name: index for index, name in enumerate(theirs)}
    return [(k, number[name]) for k, name in enumerate(class_names) if name in number]


def _new_classifier(
    loaded: LoadedWeights, arch: Architecture, seed: int, rows: list[tuple[int, int]]
) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the weights with a new classifier that has the `rows` of the old one, and a note."""
    fresh = init_weights(arch, seed)
    weights = {name: array for name, array in loaded.weights.items() if name not in CLASSIFIER}
    ours, theirs = (list(numbers) for numbers in zip(*rows, strict=True)) if rows else ([], [])
    for name in CLASSIFIER:
        if name in fresh:
            weights[name] = fresh[name].copy()
            if name in loaded.weights:
                weights[name][ours] = loaded.weights[name][theirs]
    classes = f"{arch.num_classes} classes here, {loaded.architecture.num_classes} in {loaded.path}"
    if not rows:
        return weights, f"the classifier starts anew: {classes}"
    return weights, f"the classifier keeps {len(rows)} classes that both have by name: {classes}"


def fitting_network(found: Architecture, wanted: Architecture) -> str:
    """Return the flags that give the network `found`; empty if `wanted` is built alike."""
    parts = ("layers", "cardinality", "base_width", "se_reduction", "stem", "downsample")
    if all(getattr(found, part) == getattr(wanted, part) for part in parts):
        return ""
    usual, named = architecture(found.name), architecture(wanted.name)
    words = ["--model", found.name]
    for part in parts:
        value, asked = getattr(found, part), getattr(wanted, part)
        if value != getattr(usual, part) or asked not in (value, getattr(named, part)):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--model.{part.replace('_', '-')}", *map(str, values)]
    return " ".join(words)


def model_spec(
    loaded: LoadedWeights,
    class_names: tuple[str, ...] | None = None,
    image_size: int | None = None,
) -> tuple[ModelSpec, list[str]]:
    """Return the model that the weights belong to, and notes on what had to be assumed.

    Class names and input size are those given, else those that came with the weights, else the
    usual ones. Raises UserError for a wrong number of class names and a size below 32.
    """
    arch, notes = loaded.architecture, []
    if loaded.spec:
        names, inputs = loaded.spec.class_names, loaded.spec.input
    else:
        names = tuple(str(index) for index in range(arch.num_classes))
        # mindcv and the original resize bilinearly for evaluation, timm by default bicubically.
        inputs = InputSpec(interpolation="bicubic" if loaded.layout == "timm" else "bilinear")
        if image_size is None:
            notes.append(
                f"assumed input: {inputs.image_size} px, crop ratio {inputs.crop_ratio}, "
                f"{inputs.interpolation}, ImageNet mean and std"
            )
        if class_names is None:
            notes.append("no class names came with the weights; they are numbered")
    if class_names is not None:
        if len(class_names) != arch.num_classes or len(set(class_names)) != len(class_names):
            raise UserError(
                f"{len(set(class_names))} different class names were given, "
                f"the network has {arch.num_classes} classes"
            )
        names = tuple(class_names)
    if image_size is not None:
        if image_size < 32:
            raise UserError(f"image size: expected 32 or more, got {image_size}")
        inputs = replace(inputs, image_size=image_size)
    return ModelSpec(arch, names, inputs), notes


# Folders -----------------------------------------------------------------------------------


def _load_folder(folder: Path) -> LoadedWeights:
    model = find_trained(folder)
    if model:
        spec, weights = model.spec, model.weights
        return LoadedWeights(
            model.file.parent,
            "seresnext",
            spec.architecture,
            weights,
            entries=len(weights),
            spec=spec,
        )
    names = [WEIGHTS_FILE, "pytorch_model.bin", *(n + _INDEX for n in _SHARDED)]
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise UserError(
            f"{folder} holds no finished model; expected a run folder (with model/ or "
            f"checkpoints/), one of its checkpoints, a folder with {WEIGHTS_FILE} and "
            f"{CONFIG_FILE}, or a single .safetensors, .pth or .ckpt file"
        )
    loaded = _load_file(file, None)
    config = _read_if_there(folder / CONFIG_FILE)
    if loaded.layout != "timm" or not isinstance(config, dict) or "architecture" not in config:
        return loaded
    spec, notes = read_timm_config(config, loaded.architecture, folder / CONFIG_FILE)
    return replace(loaded, spec=spec, notes=[*loaded.notes, *notes])


def _spec_in(file: Path, key: str) -> ModelSpec | None:
    """The `ModelSpec` under `key` in a JSON file of this package, if the file exists and has it."""
    data = _read_if_there(file)
    if not isinstance(data, dict) or key not in data:
        return None
    return parse_spec(data[key], file)


def _read_if_there(file: Path) -> Any:
    """The content of a JSON file; None if there is no such file."""
    return read_json(file) if file.is_file() else None


# Files -------------------------------------------------------------------------------------


def _load_file(path: Path, spec: ModelSpec | None) -> LoadedWeights:
    """A single weights file; `spec` where this package wrote one beside it."""
    entries, notes, own_spec = _read_entries(path)
    found = from_entries(entries, path)
    found = replace(found, notes=[*notes, *found.notes])
    spec = own_spec or spec
    if spec is None:
        if found.layout == "timm" and found.architecture != with_biases("timm", found.architecture):
            note = "a bias of timm's network is missing; read as a network without it"
            found = replace(found, notes=[*found.notes, note])
        return found
    check_tensors(weight_shapes(spec.architecture), found.weights, f"the weights in {path}")
    return replace(found, layout="seresnext", architecture=spec.architecture, spec=spec)


def _read_entries(path: Path) -> tuple[Mapping[str, Entry], list[str], ModelSpec | None]:
    """(entries of a weights file, notes, the `ModelSpec` in its metadata)."""
    if path.name.endswith(_INDEX):
        return _read_shards(path)
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if start[8:9] == b"{":
        entries, metadata = list_safetensors(path)
        text = metadata.get("seresnext")
        if not isinstance(text, str):
            return entries, [], None
        return entries, [], parse_spec(parse_json(text, str(path)), path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return *list_pth(path), None
    if start.startswith(b"\x0a"):
        return list_ckpt(path), [], None
    pointer = "; it is a Git LFS pointer: run `git lfs pull` to get the file itself"
    raise UserError(
        f"{path} is not a safetensors, PyTorch or MindSpore weights file"
        + (pointer if start.startswith(b"version https://") else "")
    )


def _read_shards(index: Path) -> tuple[dict[str, Entry], list[str], None]:
    """As `_read_entries`, of the files that an index names; each entry is in the file it says."""
    listing = read_json(index)
    places = listing.get("weight_map") if isinstance(listing, dict) else None
    if not isinstance(places, dict) or not all(isinstance(n, str) for n in places.values()):
        raise UserError(f"{index} is no index: expected a weight_map of names and files")
    entries: dict[str, Entry] = {}
    beside = {path.name for path in index.parent.iterdir()}
    files = sorted(set(places.values()))
    for name in files:
        if name not in beside or name.endswith(_INDEX):
            raise UserError(f"{index} names {name!r}, which is no file in its folder")
        found, _, _ = _read_entries(index.parent / name)
        entries |= {entry: found[entry] for entry in found if places.get(entry) == name}
    missing = sorted(set(places) - set(entries))
    if missing:
        raise UserError(f"{index} names entries that its files lack: {listed(missing)}")
    return entries, [f"read {len(files)} files that {index.name} names"], None
