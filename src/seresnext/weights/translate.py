"""Translate a checkpoint's entries to canonical names.

Each entry is used, dropped for a stated reason, or reported in an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, listed
from ..model.architecture import Architecture, is_buffer, weight_shapes
from ..model.spec import ModelSpec
from ..tensors import Entry, as_array
from .detect import detect_architecture, detect_layout
from .layouts import MOMENTUM_PREFIX, Layout, layout_names

_SCALARS = {
    "accumulation_step",
    "counter",
    "current_iterator_step",
    "epoch_num",
    "global_step",
    "last_overflow_iterator_step",
    "learning_rate",
    "loss_scale",
    "momentum",
    "scale_sense",
    "scale_value",
    "step_num",
    "updates",
    "weight_decay",
}
"""What MindSpore's optimizers, loss scalers and checkpoint callbacks, and mindcv's training step
save beside a network."""


_COUNTERS = ("total_ops", "total_params", "_extra_state", "__flops__")
"""What profilers (thop, ptflops) add to modules."""
_MEASURES = re.compile(r"loss|criteri|metric|meter|confusion|confmat|accura", re.I)
"""Names of modules that judge a network and are no part of it."""


@dataclass(frozen=True)
class LoadedWeights:
    """Weights read from a file or folder, under canonical names."""

    path: Path
    layout: Layout | Literal["seresnext"]
    """`seresnext` where this package wrote the file and nothing had to be detected."""
    architecture: Architecture
    weights: dict[str, NDArray[Any]]
    """Canonical name -> float32, complete, in the network's order."""
    entries: int
    """Number of entries in the file."""
    spec: ModelSpec | None = None
    """Class names and input, where they came with the weights."""
    momentum: dict[str, NDArray[Any]] = field(default_factory=dict)
    """SGD momentum by parameter, from a MindSpore training checkpoint; else empty."""
    momentum_entries: list[str] = field(default_factory=list)
    """Names of the entries that hold it."""
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> names of the entries that became neither weights nor momentum."""
    notes: list[str] = field(default_factory=list)
    """What the user should know about how the file was read."""

    @property
    def used(self) -> int:
        """Number of entries that became weights or momentum."""
        return self.entries - sum(map(len, self.dropped.values()))


def from_entries(entries: Mapping[str, Entry], path: Path) -> LoadedWeights:
    """Translate the entries of the file `path`.

    Raises UserError listing every entry that is missing, unknown or of another shape.
    """
    entries, notes = _strip_prefix(entries, path)
    layout = detect_layout(entries)
    if layout is None:
        raise UserError(
            f"{path} holds no SE-ResNeXt in a known layout (timm, mindcv, original zoo): no "
            f"entry layer1.0.se.fc1.weight or its like; it begins with {listed(list(entries))}"
        )
    arch = detect_architecture(layout, {n: a.shape for n, a in entries.items()}, path)
    names = layout_names(layout, arch)
    trained = {n: parts for n, parts in names.items() if not is_buffer(n)}
    weights, used, problems = _gather(arch, names, "", entries)
    momentum: dict[str, NDArray[Any]] = {}
    dropped: dict[str, list[str]] = {}
    moments = {MOMENTUM_PREFIX + part for parts in trained.values() for part in parts}
    if moments <= entries.keys():
        momentum, _, more = _gather(arch, trained, MOMENTUM_PREFIX, entries)
        problems += more
        used |= moments
    elif moments & entries.keys():  # layers were frozen
        dropped["momentum of some parameters only"] = sorted(moments & entries.keys())
        used |= moments & entries.keys()
    known = {part for parts in names.values() for part in parts}
    for name in entries:
        if name in used:
            continue
        reason = _drop_reason(name, entries[name].shape, known)
        if reason:
            dropped.setdefault(reason, []).append(name)
        else:
            problems.append(f"unknown {name}")
    if problems:
        raise UserError(
            f"the entries of {path} ({layout} layout, read as {arch.name}) do not fit: "
            + listed(problems, "; ")
        )
    return LoadedWeights(
        path=path,
        layout=layout,
        architecture=arch,
        weights=weights,
        entries=len(entries),
        momentum=momentum,
        momentum_entries=sorted(moments) if momentum else [],
        dropped=dropped,
        notes=notes,
    )


def _strip_prefix(
    entries: Mapping[str, Entry], path: Path
) -> tuple[Mapping[str, Entry], list[str]]:
    """Remove the prefix that wrappers put before all names, such as `module.` or `network.`.

    Of a network and its average the average is taken, as timm does.
    """
    anchor = "layer1.0.conv1.weight"
    prefixes = {
        name.removesuffix(anchor)
        for name in entries
        if name.endswith(anchor) and not name.startswith((MOMENTUM_PREFIX, "ema.", "optimizer."))
    }
    averaged = {prefix for prefix in prefixes if "ema" in prefix.lower()}
    chosen = averaged if len(prefixes) == 2 and len(averaged) == 1 else prefixes
    if len(chosen) > 1:
        raise UserError(
            f"{path} holds {len(prefixes)} networks, under {listed(sorted(prefixes))}; expected one"
        )
    prefix = next(iter(chosen), "")
    if not prefix:
        return entries, []
    others = tuple(prefixes - chosen)
    stripped: dict[str, Entry] = {}
    for name, entry in entries.items():
        if others and name.startswith(others) and not name.startswith(prefix):
            continue
        moment = MOMENTUM_PREFIX if name.startswith(MOMENTUM_PREFIX) else ""
        short = moment + name.removeprefix(moment).removeprefix(prefix)
        if short in stripped:
            raise UserError(f"{path} holds {short!r} both with and without {prefix!r} before it")
        stripped[short] = entry
    left = f"; left out the network under {others[0]!r}" if others else ""
    return stripped, [f"took {prefix!r} off the names{left}"]


def _gather(
    arch: Architecture,
    names: Mapping[str, list[str]],
    prefix: str,
    entries: Mapping[str, Entry],
) -> tuple[dict[str, NDArray[Any]], set[str], list[str]]:
    """(canonical arrays, entries used, problems) of `names`, whose entries begin with `prefix`."""
    gathered: dict[str, NDArray[Any]] = {}
    used: set[str] = set()
    problems: list[str] = []
    shapes = weight_shapes(arch)
    for name, parts in names.items():
        shape = shapes[name]
        arrays = []
        for part in (prefix + p for p in parts):
            if part not in entries:
                problems.append(f"missing {part}")
                continue
            used.add(part)
            expected = (shape[0] // len(parts), *shape[1:])
            array, problem = _fitting(entries[part], expected)
            if array is None:
                problems.append(f"{part} {problem}")
            else:
                arrays.append(array)
        if len(arrays) == len(parts):
            gathered[name] = np.require(np.concatenate(arrays), np.float32, ["C", "W"])
    return gathered, used, problems


def _fitting(entry: Entry, shape: tuple[int, ...]) -> tuple[NDArray[Any] | None, str]:
    """The weight of this shape, or why the entry cannot be it; a 1x1 kernel may be a matrix.

    Nothing is read unless shape and type fit.
    """
    flat = shape[:2] if shape[2:] == (1, 1) else shape
    if entry.shape not in (shape, flat):
        return None, f"has shape {tuple(entry.shape)}, expected {shape}"
    if entry.dtype.kind != "f":
        return None, f"has type {entry.dtype}, expected floating-point numbers"
    array = as_array(entry)
    if not np.isfinite(array).all() or np.abs(array).max() > np.finfo(np.float32).max:
        return None, "holds numbers that are not finite"
    return array.reshape(shape), ""


def _drop_reason(name: str, shape: tuple[int, ...], known: set[str]) -> str | None:
    """Why an entry that is not a weight may be left out; None if it could be part of a network.

    What lies inside the network's modules must be a counter. Beside them, a module with kernels or
    matrices could be part of the network, unless its name says what it is.
    """
    if name in _SCALARS:
        return "training state of MindSpore"
    if name.startswith("ema.") and name.removeprefix("ema.") in known:
        return "averaged copies of the weights"
    if name.startswith("optimizer.") and name.removeprefix("optimizer.") in known:
        return "gradient accumulators"
    module, _, leaf = name.rpartition(".")
    if leaf == "num_batches_tracked":
        return "BN batch counters" if f"{module}.running_mean" in known else None
    if leaf in _COUNTERS and math.prod(shape) <= 1:
        return "profilers' counters"
    top = name.partition(".")[0]
    inside = {part.partition(".")[0] for part in known} | {MOMENTUM_PREFIX.rstrip(".")}
    if top not in inside and (math.prod(shape) <= 1 or _MEASURES.search(top)):
        return "beside the network: counters, criteria, metrics"
    return None
