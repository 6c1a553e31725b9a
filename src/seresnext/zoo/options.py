"""The original's names, from a YAML file and as `--name value`; typed, unknown ones refused."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from ..errors import UserError

T = TypeVar("T")
Target = Literal["CPU", "GPU", "Ascend"]
MAX_YAML_BYTES = 1 << 20
"""A configuration above this is refused unread (the names below take 2 kB)."""


def named(default: Any, text: str) -> Any:
    """A field of an options class: its default and what `--help` says of it."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Options:
    """The configuration of the original, which training and evaluation share."""

    name: Literal["imagenet", "imagenet2012"] = named("imagenet", "data set; any image folder")
    dataset_name: Literal["imagenet", "imagenet2012"] = named("imagenet", "the same, by argument")
    data_path: str = named("", "training images: a folder of <class>/, or of train/ and val/")
    val_data_path: str = named("", "validation images: a folder of <class>/")
    num_classes: int | None = named(None, "checked against the images where given")
    image_height: int = named(224, "side of the images, pixels")
    image_width: int = named(224, "as image_height")
    batch_size: int = named(128, "images per device and step")
    epoch_size: float = named(120.0, "epochs")
    lr_init: float | None = named(
        None, "peak learning rate at the global batch (default 0.05 per 128 images: 0.4 on 8x128)"
    )
    lr_scheduler: Literal["cosine_annealing", "exponential"] = named(
        "cosine_annealing", "curve after the warmup; exponential is by steps at lr_epochs"
    )
    lr_epochs: tuple[float, ...] = named((30.0, 60.0, 90.0, 120.0), "exponential: where it falls")
    lr_gamma: float = named(0.1, "exponential: by which factor")
    eta_min: float = named(0.0, "cosine_annealing: lowest learning rate")
    T_max: float | None = named(
        None, "cosine_annealing: epochs of half a period (default 110; the run with zoo-fixed)"
    )
    warmup_epochs: float = named(1.0, "epochs of linear warmup")
    momentum: float = named(0.9, "of SGD")
    weight_decay: float = named(1e-4, "on convolutions and matrices")
    is_dynamic_loss_scale: bool = named(False, "float16: dynamic instead of fixed loss scale")
    loss_scale: float = named(1024.0, "float16: fixed loss scale")
    use_label_smooth: bool = named(True, "smooth the labels")
    label_smooth_factor: float = named(0.1, "share of the target that goes to the other classes")
    pre_trained: bool = named(False, "train from the weights in checkpoint_path")
    checkpoint_path: str = named("", "train: weights to start from; eval: what to evaluate")
    keep_checkpoint_max: int = named(20, "newest checkpoints kept")
    device_target: Literal["CPU", "GPU", "Ascend"] = named(
        "Ascend", "what to compute on; Ascend was not run on hardware"
    )
    device_id: int = named(0, "which device; each process has its own in a distributed run")
    engine: Literal["torch", "mindspore"] | None = named(
        None, "framework (default: torch on CPU and GPU, mindspore on Ascend)"
    )


@dataclass(frozen=True)
class TrainOptions(Options):
    """`train.py`."""

    recipe: Literal["zoo", "zoo-fixed"] = named(
        "zoo", "the original's training as it was, or without its faults"
    )
    out: str = named("./ckpt_0", "run folder: checkpoints, logs, model")
    save_ckpt: bool = named(True, "also write train_senet_imagenet-{epoch}_{step}.ckpt there")


@dataclass(frozen=True)
class EvalOptions(Options):
    """`eval.py`."""

    checkpoint_path: str = named("./ckpt_0", "folder of checkpoints, or one of them")


@dataclass(frozen=True)
class ExportOptions:
    """`export.py`."""

    ckpt_file: str = named("", "checkpoint to export")
    file_name: str = named("seresnext50", "file to write; the format's ending is added")
    file_format: Literal["AIR", "ONNX", "MINDIR"] = named("MINDIR", "what to write")
    batch_size: int = named(1, "accepted; the exported model takes any number of images")
    width: int = named(224, "side of the images, pixels")
    height: int = named(224, "as width")
    device_target: Literal["CPU", "GPU", "Ascend"] = named(
        "Ascend", "what to compute on; Ascend was not run on hardware"
    )
    device_id: int = named(0, "which device")
    engine: Literal["torch", "mindspore"] | None = named(
        None, "framework to compare with (default: torch on CPU and GPU, mindspore on Ascend)"
    )
    data_path: str = named(
        "", "images that name the classes and to compare on (default: those of the run)"
    )


DOORS = (TrainOptions, EvalOptions, ExportOptions)
"""Whose names a YAML file may hold."""


def parse(cls: type[T], argv: Sequence[str], program: str) -> tuple[T, list[str]]:
    """(options of class `cls`, what came after `--`).

    `--config_path FILE` is read first; what the command line says wins. One file may serve all
    commands: names of another one are passed over in it. Raises UserError for an unknown name
    (with the list of those there are) and a value of the wrong type.
    """
    argv = list(argv)
    rest = argv[argv.index("--") + 1 :] if "--" in argv else []
    argv = argv[: argv.index("--")] if "--" in argv else argv
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    parser = argparse.ArgumentParser(
        prog=program,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        usage=f"{program} [--config_path FILE.yaml] [--NAME VALUE]... [-- OTHER FLAGS]",
    )
    parser.add_argument("--config_path", metavar="FILE", help="YAML file of the names below")
    for name, option in fields.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=_help(option))
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UserError(_unknown(unknown[0], fields, "on the command line"))
    texts: dict[str, Any] = vars(given)
    path = texts.pop("config_path", None)
    values = _read_yaml(Path(path)) if path else {}
    values = {name: value for name, value in values.items() if name in fields} | texts
    hints = typing.get_type_hints(cls)
    return cls(**{name: _typed(hints[name], value, name) for name, value in values.items()}), rest


def _help(option: dataclasses.Field[Any]) -> str:
    text = str(option.metadata["help"])
    default = option.default
    return text if default in (None, "") else f"{text} (default {default})"


def _read_yaml(path: Path) -> dict[str, Any]:
    """Name -> value. Of several documents the first is the configuration, as in the model zoo."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise UserError(f"config_path: {path} is larger than {MAX_YAML_BYTES} bytes; refused")
        text = path.read_text()
        values = next(iter(yaml.safe_load_all(text)), None) or {}
    except OSError as error:
        raise UserError(f"config_path: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"config_path: {path} is not YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"config_path: {path} holds no names; expected lines such as lr_init: 0.4")
    known = {f.name: f for cls in DOORS for f in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise UserError(_unknown(str(name), known, f"in {path}"))
    return {name: value for name, value in values.items() if value is not None}


def _unknown(word: str, fields: dict[str, Any], where: str) -> str:
    name = word.lstrip("-").partition("=")[0]
    near = difflib.get_close_matches(name, fields, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"unknown name {name!r} {where}{hint}; the names are {', '.join(fields)}, config_path. "
        "Flags of `seresnext train` go after --"
    )


def _typed(expected: Any, value: Any, name: str) -> Any:
    """`value`, from YAML or the command line, as the annotated type; UserError naming the field."""
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return _typed(next(a for a in args if a is not type(None)), value, name)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{name}: expected one of {', '.join(args)}, got {value!r}")
        return value
    if origin is tuple:
        if isinstance(value, str):
            value = value.strip("[]()").replace(",", " ").split()
        items = value if isinstance(value, list) else [value]
        return tuple(_typed(args[0], item, name) for item in items)
    if expected is bool:
        known = {"true": True, "1": True, "false": False, "0": False}
        if str(value).lower() not in known:
            raise UserError(f"{name}: expected True or False (or 1, 0), got {value!r}")
        return known[str(value).lower()]
    if expected is str and not isinstance(value, (list, dict)):
        return str(value)
    try:
        # YAML 1.1 reads 1e-4 as text: numbers may come as such, but True is none.
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number) and (expected is float or number == int(number)):
                return expected(number)
    except (ValueError, OverflowError):
        pass
    kind = "a whole number" if expected is int else "a number" if expected is float else "text"
    raise UserError(f"{name}: expected {kind}, got {value!r}")
