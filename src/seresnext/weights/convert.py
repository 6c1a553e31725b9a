"""`seresnext convert`: weights from one layout to another, every entry accounted for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import UserError, printable
from ..model.architecture import fit_biases
from ..model.saved_model import save_model
from ..model.spec import ModelSpec
from ..tensors import save_safetensors
from .ckpt import write_ckpt
from .layouts import MAX_POOL, Layout, to_entries, with_biases
from .load import load_weights, model_spec
from .translate import LoadedWeights

Target = Literal["seresnext", "timm", "original", "mindcv"]
SUFFIXES = (".safetensors", ".ckpt")
ARTIFACTS = (".onnx", ".xml", ".mindir", ".air", ".pt2")
"""Endings of what export writes: a network, not only its weights."""


@dataclass(frozen=True)
class Conversion:
    """What was read and written, and what became of every entry."""

    source: Path
    layout: str
    """The source's layout."""
    network: str
    classes: int
    out: Path
    to: Target
    read: int
    """Number of entries in the source."""
    used: int
    dropped: dict[str, list[str]]
    """Reason -> names of the entries that were left out."""
    written: int
    """Number of entries in the result."""
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
        return "\n".join(map(printable, lines))


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: Target | None = None,
    class_names: tuple[str, ...] | None = None,
    image_size: int | None = None,
    temperature: float = 1.0,
    keep_momentum: bool = False,
    allow_pooling_change: bool = False,
) -> Conversion:
    """Read `source` (see `load_weights`) and write it to `out` in the layout `to`.

    A folder is written for `seresnext` (the model folder of this package) and `timm` (its local
    directory), a `.safetensors` file for `timm`, `mindcv` and `original`, a `.ckpt` for the last
    two. Without `to` a folder is `seresnext` and a `.safetensors` is `timm`.
    `class_names` and `image_size` replace those that came with the weights. `temperature`, as
    `evaluate` finds it, divides the logits: probabilities are calibrated, with the same answers, in
    everything that is made of the result. `keep_momentum` copies
    the momentum of a training checkpoint to another `.ckpt`. `allow_pooling_change` writes a
    network even if the layout pads the max-pool otherwise, which puts its outputs some 20 % off.
    Raises UserError, and writes nothing, if the source cannot be read or the result would not be
    the same network.

    >>> print(seresnext.convert("runs/mine", "timm.safetensors"))
    read runs/mine...: seresnext layout, seresnext50_32x4d, 2 classes
    ...
    wrote timm.safetensors: timm layout, ... entries
    """
    out = Path(out)
    target = _target(out, to)
    loaded = load_weights(source)
    spec, notes = model_spec(loaded, class_names, image_size)
    if target != "seresnext":
        spec, more = _match_pooling(spec, target, allow_pooling_change)
        notes += more
        spec, loaded = _match_biases(spec, loaded, target)
    if temperature != 1:
        loaded = _calibrated(loaded, temperature, keep_momentum)
        notes.append(f"the logits are divided by {temperature:g}; the answers stay the same")
    dropped = dict(loaded.dropped)
    momentum = loaded.momentum
    if keep_momentum and not (momentum and out.suffix == ".ckpt"):
        held = "a .ckpt alone can hold it" if momentum else f"{source} holds none"
        raise UserError(f"--keep-momentum: {held}")
    if momentum and not keep_momentum:
        dropped["momentum"] = loaded.momentum_entries
        momentum = {}
    written = _write(out, target, replace(loaded, spec=spec, momentum=momentum))
    return Conversion(
        source=loaded.path,
        layout=loaded.layout,
        network=spec.architecture.name,
        classes=spec.architecture.num_classes,
        out=out,
        to=target,
        read=loaded.entries,
        used=loaded.entries - sum(map(len, dropped.values())),
        dropped=dropped,
        written=written,
        notes=[*loaded.notes, *notes],
    )


def _calibrated(loaded: LoadedWeights, temperature: float, keep_momentum: bool) -> LoadedWeights:
    """Return weights whose logits are divided by `temperature`: those of the classifier are."""
    if not 0.02 <= temperature <= 50:
        raise UserError(f"--temperature: expected 0.02 to 50, got {temperature:g}")
    if keep_momentum:
        raise UserError(
            "--temperature: expected no --keep-momentum, which is of the weights as they were"
        )
    scaled = {
        name: (loaded.weights[name] / temperature).astype(np.float32)
        for name in ("fc.weight", "fc.bias")
        if name in loaded.weights
    }
    return replace(loaded, weights=loaded.weights | scaled)


def _target(out: Path, to: Target | None) -> Target:
    """The layout to write. Raises UserError if it cannot be written to a path like `out`."""
    if out.suffix in ARTIFACTS:
        raise UserError(
            f"convert writes weights, and {out} would be a network: use "
            f"`seresnext export MODEL --out {out}`"
        )
    kind = out.suffix if out.suffix in (*SUFFIXES, ".pth", ".pt", ".bin") else "folder"
    if to is None:
        if kind == ".ckpt":
            raise UserError(f"{out}: name the .ckpt's layout, --to original or --to mindcv")
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


def _match_pooling(spec: ModelSpec, target: Layout, allow: bool) -> tuple[ModelSpec, list[str]]:
    """The model with the target's max-pool padding, and notes; UserError unless `allow`."""
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


def _match_biases(
    spec: ModelSpec, loaded: LoadedWeights, target: Layout
) -> tuple[ModelSpec, LoadedWeights]:
    """The same network with the biases of the target's. Raises UserError if one would be lost."""
    arch = with_biases(target, spec.architecture)
    weights, momentum = (
        fit_biases(
            arrays,
            arch,
            f"the {target} layout",
            "write mindcv's or timm's, which have one, or train without them (--recipe zoo, or "
            "--model.no-classifier-bias --model.no-se-bias)",
        )
        if arrays
        else {}
        for arrays in (loaded.weights, loaded.momentum)
    )
    loaded = replace(loaded, weights=weights, momentum=momentum)
    return replace(spec, architecture=arch), loaded


def _write(out: Path, target: Target, model: LoadedWeights) -> int:
    """Write the result; return its number of entries."""
    assert model.spec is not None
    if out.suffix not in SUFFIXES:
        save_model(out, model.spec, model.weights)
        return len(model.weights)
    assert target != "seresnext"
    entries = to_entries(target, model.spec.architecture, model.weights, model.momentum)
    if out.suffix == ".ckpt":
        write_ckpt(out, entries)
    else:
        save_safetensors(out, entries, {"format": "pt" if target == "timm" else "ms"})
    return len(entries)
