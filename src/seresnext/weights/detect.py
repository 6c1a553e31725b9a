"""Detect a checkpoint's layout and architecture from the names and shapes of its entries."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..model.architecture import MODEL_NAMES, Architecture, architecture
from .layouts import HEAD, MAX_POOL, SE, Layout

_BLOCK = re.compile(r"layer([1-4])\.(\d{1,2})\.")


def detect_layout(names: Container[str]) -> Layout | None:
    """The layout that these names belong to, by the first block's SE module; None if unknown."""
    for layout, (fc1, _) in SE.items():
        if f"layer1.0.{fc1}.weight" in names:
            return layout
    return None


def detect_architecture(
    layout: Layout, shapes: Mapping[str, tuple[int, ...]], path: Path
) -> Architecture:
    """The architecture of the network that has these entries; `path` names the file in errors.

    What shapes do not show is taken from the layout (the max-pool's padding) or is the family's
    default. Networks that differ only in pooling or anti-aliasing inside a block look the same.
    Raises UserError if a needed entry is missing.
    """

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if len(shapes.get(name, ())) != dims or 0 in shapes[name]:
            found = f"has shape {tuple(shapes[name])}" if name in shapes else "is missing"
            raise UserError(
                f"{path} ({layout} layout) does not tell its architecture: {name} {found}, "
                f"expected {dims} dimensions"
            )
        return shapes[name]

    depth = [0, 0, 0, 0]
    for match in filter(None, map(_BLOCK.match, shapes)):
        stage = int(match[1]) - 1
        depth[stage] = max(depth[stage], int(match[2]) + 1)
    if not all(depth):
        raise UserError(f"{path} ({layout} layout) has no entries of layer{depth.index(0) + 1}")
    width = shape("layer1.0.conv1.weight", 4)[0]
    first = "layer1.0.conv2.convs.0.weight" if layout == "original" else "layer1.0.conv2.weight"
    per_group = shape(first, 4)[1]
    fields: dict[str, Any] = {
        "layers": tuple(depth),
        "cardinality": max(width // per_group, 1),
        "base_width": per_group,
        "stem": "deep" if "conv1.0.weight" in shapes else "conv7",
        "downsample": "avg" if "layer1.0.downsample.2.weight" in shapes else "conv",
    }
    biases = {
        "classifier_bias": f"{HEAD[layout]}.bias" in shapes,
        "se_bias": f"layer1.0.{SE[layout][1]}.bias" in shapes,
    }
    squeezed = [shape(f"layer{s}.0.{SE[layout][0]}.bias", 1)[0] for s in range(1, 5)]
    # Two ratios that round to the same widths give the same network: try the usual ones first.
    for reduction in (16, 8, 4, 32, 2, 64, *range(1, 257)):
        arch = Architecture(se_reduction=reduction)
        if [b.se_channels for b in arch.blocks() if b.has_downsample] == squeezed:
            fields["se_reduction"] = reduction
            break
    else:
        raise UserError(
            f"the SE modules of {path} have {squeezed} channels from stage to stage, which no "
            "single reduction of this family gives"
        )
    classes = shape(f"{HEAD[layout]}.weight", 2)[0]
    return _named(fields, max_pool=MAX_POOL[layout], num_classes=classes, **biases)


def _named(fields: dict[str, Any], **rest: Any) -> Architecture:
    """The family's network with these fields, or the nearest one with the other fields replaced."""

    def differing(name: str) -> dict[str, Any]:
        member = architecture(name)
        return {k: v for k, v in fields.items() if getattr(member, k) != v}

    nearest = min(("seresnext50_32x4d", *MODEL_NAMES), key=lambda name: len(differing(name)))
    return architecture(nearest, **differing(nearest), **rest)
