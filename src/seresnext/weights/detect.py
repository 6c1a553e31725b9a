"""Which network a checkpoint was saved from, told by its names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..model.architecture import MODEL_NAMES, Architecture, architecture
from .layouts import HEAD, MAX_POOL, SE, Layout

_BLOCK = re.compile(r"layer([1-4])\.(\d{1,2})\.")


def infer_architecture(
    layout: Layout, shapes: Mapping[str, tuple[int, ...]], source: str
) -> Architecture:
    """The network that these entries were saved from, told from names and shapes.

    What shapes do not show is taken as the layout's networks have it (the max-pool) or as the
    family's default. Networks that differ in nothing but pooling or anti-aliasing inside a block
    cannot be told apart. Raises UserError where a needed entry is missing.
    """

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if len(shapes.get(name, ())) != dims or 0 in shapes[name]:
            found = f"has shape {tuple(shapes[name])}" if name in shapes else "is missing"
            raise UserError(
                f"{source} ({layout} layout) does not tell its architecture: {name} {found}, "
                f"expected {dims} dimensions"
            )
        return shapes[name]

    depth = [0, 0, 0, 0]
    for match in filter(None, map(_BLOCK.match, shapes)):
        stage = int(match[1]) - 1
        depth[stage] = max(depth[stage], int(match[2]) + 1)
    if not all(depth):
        raise UserError(f"{source} ({layout} layout) has no entries of layer{depth.index(0) + 1}")
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
    squeezed = [shape(f"layer{s}.0.{SE[layout][0]}.bias", 1)[0] for s in range(1, 5)]
    # Two ratios may round to the same widths, which is then the same network: the usual first.
    for reduction in (16, 8, 4, 32, 2, 64, *range(1, 257)):
        arch = Architecture(se_reduction=reduction)
        if [b.se_channels for b in arch.blocks() if b.has_downsample] == squeezed:
            fields["se_reduction"] = reduction
            break
    else:
        raise UserError(
            f"the SE modules of {source} have {squeezed} channels from stage to stage, which no "
            "single reduction of this family gives"
        )
    classes = shape(f"{HEAD[layout]}.weight", 2)[0]
    return _named(fields, max_pool=MAX_POOL[layout], num_classes=classes)


def _named(fields: dict[str, Any], **rest: Any) -> Architecture:
    """The family's member with these fields, or the nearest one with the rest changed."""

    def differing(name: str) -> dict[str, Any]:
        member = architecture(name)
        return {k: v for k, v in fields.items() if getattr(member, k) != v}

    nearest = min(("seresnext50_32x4d", *MODEL_NAMES), key=lambda name: len(differing(name)))
    return architecture(nearest, **differing(nearest), **rest)
