"""`seresnext convert`: weights of anyone's to anyone's, every entry accounted for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ..errors import UserError
from ..model.saved_model import save_model
from ..model.spec import InputSpec, ModelSpec
from .ckpt import write_ckpt
from .layouts import MAX_POOL, Layout, to_entries
from .load import ForeignModel, load_weights

Target = Literal["seresnext", "timm", "original", "mindcv"]
SUFFIXES = (".safetensors", ".ckpt")


@dataclass(frozen=True)
class ConvertReport:
    """What became of every entry."""

    source: Path
    layout: str
    """Layout that was read."""
    network: str
    classes: int
    out: Path
    to: Target
    read: int
    """Entries in the source."""
    used: int
    dropped: dict[str, list[str]]
    """Why -> names of entries that were left out."""
    written: int
    """Entries in the result."""
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"read {self.source}: {self.layout} layout, {self.network}, {self.classes} classes",
            f"  {self.read} entries: {self.used} used, {self.read - self.used} dropped",
        ]
        for reason, names in self.dropped.items():
            more = ", ..." if len(names) > 3 else ""
            lines.append(f"  dropped {len(names)}: {reason} ({', '.join(names[:3])}{more})")
        lines += [f"  note: {note}" for note in self.notes]
        lines.append(f"wrote {self.out}: {self.to} layout, {self.written} entries")
        return "\n".join(lines)


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: Target | None = None,
    class_names: tuple[str, ...] | None = None,
    image_size: int | None = None,
    keep_momentum: bool = False,
    allow_pooling_change: bool = False,
) -> ConvertReport:
    """Read `source` (see `load_weights`) and write it to `out` in the layout `to`.

    A folder is written for `seresnext` (the model folder of this package) and `timm` (its local
    directory), a `.safetensors` file for `timm`, `mindcv` and `original`, a `.ckpt` for the last
    two. Without `to` a folder is `seresnext` and a `.safetensors` is `timm`.
    `class_names` and `image_size` replace what came with the weights. `keep_momentum` takes the
    momentum of a training checkpoint into another `.ckpt`. `allow_pooling_change` writes a
    network of one max-pool padding as one of the other, whose outputs are then some 20 % off.
    Raises UserError for what cannot be read or would not be the same network; nothing is written.
    """
    out = Path(out)
    target = _target(out, to)
    foreign = load_weights(source)
    notes = list(foreign.notes)
    spec, more = _spec(foreign, class_names, image_size)
    notes += more
    if target != "seresnext":
        spec, more = _match_pooling(spec, target, allow_pooling_change)
        notes += more
    dropped = dict(foreign.dropped)
    momentum = foreign.momentum
    if keep_momentum and not (momentum and out.suffix == ".ckpt"):
        held = "a .ckpt alone can hold it" if momentum else f"{source} holds none"
        raise UserError(f"--keep-momentum: {held}")
    if momentum and not keep_momentum:
        dropped["momentum"] = foreign.momentum_entries
        momentum = {}
    written = _write(out, target, spec, foreign.weights, momentum)
    return ConvertReport(
        source=foreign.path,
        layout=foreign.layout,
        network=foreign.architecture.name,
        classes=foreign.architecture.num_classes,
        out=out,
        to=target,
        read=foreign.entries,
        used=foreign.entries - sum(map(len, dropped.values())),
        dropped=dropped,
        written=written,
        notes=notes,
    )


def _target(out: Path, to: Target | None) -> Target:
    """The layout to write, which must go with `out`'s kind."""
    kind = out.suffix if out.suffix in (*SUFFIXES, ".pth", ".pt", ".bin") else "folder"
    if to is None:
        if kind == ".ckpt":
            raise UserError(f"{out}: say whose .ckpt it shall be, --to original or --to mindcv")
        to = "timm" if kind == ".safetensors" else "seresnext"
    kinds: dict[Target, tuple[str, ...]] = {
        "seresnext": ("folder",),
        "timm": ("folder", ".safetensors"),
        "mindcv": SUFFIXES,
        "original": SUFFIXES,
    }
    if to not in kinds:
        raise UserError(f"--to {to}: expected one of {', '.join(kinds)}")
    if kind not in kinds[to]:
        raise UserError(
            f"cannot write {out} as {to}: expected "
            + " or ".join("a folder" if k == "folder" else f"a {k} file" for k in kinds[to])
        )
    if kind == "folder" and out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; expected a folder to write the model into")
    if kind != "folder" and out.is_dir():
        raise UserError(f"{out} is a folder; expected a file to write")
    return to


def _spec(
    foreign: ForeignModel, class_names: tuple[str, ...] | None, image_size: int | None
) -> tuple[ModelSpec, list[str]]:
    """The model's classes and input: what came with it, what was asked for, what is usual."""
    arch, notes = foreign.architecture, []
    if foreign.spec:
        names, inputs = foreign.spec.class_names, foreign.spec.input
    else:
        names = tuple(str(index) for index in range(arch.num_classes))
        # Both zoos resize bilinearly for evaluation; timm's usual is bicubic.
        inputs = InputSpec(interpolation="bicubic" if foreign.layout == "timm" else "bilinear")
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


def _match_pooling(spec: ModelSpec, target: Layout, allow: bool) -> tuple[ModelSpec, list[str]]:
    """The model as the target's network would run it, unless that changes its outputs."""
    ours, theirs = spec.architecture.max_pool, MAX_POOL[target]
    if ours == theirs:
        return spec, []
    if not allow:
        raise UserError(
            f"this network pads its max-pool {ours!r}; {target}'s has no such option and pads "
            f"{theirs!r}, so it would open there without an error and give outputs some 20 % off; "
            "--allow-pooling-change writes it all the same"
        )
    arch = replace(spec.architecture, max_pool=theirs)
    note = f"max-pool padding changed from {ours!r} to {theirs!r}: outputs are not the same"
    return replace(spec, architecture=arch), [note]


def _write(
    out: Path,
    target: Target,
    spec: ModelSpec,
    weights: dict[str, np.ndarray],
    momentum: dict[str, np.ndarray],
) -> int:
    """Write the result; return how many entries it has."""
    if out.suffix not in SUFFIXES:
        try:
            save_model(out, spec, weights)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot write {out}: {error}") from None
        return len(weights)
    assert target != "seresnext"
    entries = to_entries(target, spec.architecture, weights, momentum)
    if out.suffix == ".ckpt":
        write_ckpt(out, entries)
        return len(entries)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {name: np.ascontiguousarray(array) for name, array in entries.items()}
        save_file(contiguous, temporary, {"format": "pt" if target == "timm" else "ms"})
        os.replace(temporary, out)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {out}: {error}") from None
    return len(entries)
