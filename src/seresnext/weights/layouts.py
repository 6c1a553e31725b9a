"""The names of this family's weights in timm, mindcv, and the original model zoo.

| here and timm | mindcv and the original zoo |
|---|---|
| `conv1.weight`, `bn1.*` | `layer0.0.weight`, `layer0.1.*` |
| BN `weight`, `bias` | `gamma`, `beta` |
| BN `running_mean`, `running_var` | `moving_mean`, `moving_variance` |
| `layer1.0.conv2.weight` | the original: `layer1.0.conv2.convs.{0..31}.weight`, one per group |
| `layer1.0.se.fc1.*`, `.se.fc2.*` | mindcv: `layer1.0.se_module.conv_reduce.*`, `.conv_expand.*`; |
| | the original: `.se_module.fc1.*`, `.se_module.fc2.*` |
| `fc.*` | mindcv: `classifier.*`; the original: `last_linear.*` |

The original's network has no bias in `fc2` and `last_linear`; a network with them, trained by the
zoo's commands, has entries of these names too. mindcv and the original pad the stem's max-pool
`same`, timm pads as torch does. The SE module's weights are 1x1 kernels in the original and
matrices in mindcv; both forms are read in either layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from numpy.typing import NDArray

from ..errors import UserError
from ..model.architecture import Architecture, weight_shapes

Layout = Literal["timm", "mindcv", "original"]
MAX_POOL: dict[Layout, Literal["torch", "same"]] = {
    "timm": "torch",
    "mindcv": "same",
    "original": "same",
}
HEAD: dict[Layout, str] = {"timm": "fc", "mindcv": "classifier", "original": "last_linear"}
SE: dict[Layout, tuple[str, str]] = {
    "timm": ("se.fc1", "se.fc2"),
    "mindcv": ("se_module.conv_reduce", "se_module.conv_expand"),
    "original": ("se_module.fc1", "se_module.fc2"),
}
MOMENTUM_PREFIX = "moments."
"""Prefix of a parameter's momentum in a checkpoint of MindSpore's `nn.Momentum`."""

_BN = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def with_biases(layout: Layout, arch: Architecture) -> Architecture:
    """`arch` with the biases that the layout's own network has."""
    has = layout != "original"
    return replace(arch, classifier_bias=has, se_bias=has)


def layout_names(layout: Layout, arch: Architecture) -> dict[str, list[str]]:
    """Canonical name -> names of the entries that hold it: one, or one per group.

    Raises UserError if the layout cannot describe this architecture.
    """
    if layout != "timm" and (arch.stem, arch.downsample) != ("conv7", "conv"):
        raise UserError(
            f"the {layout} layout has no deep stem and no average-pool shortcut, which "
            f"{arch.name} has; convert it to timm's layout instead"
        )
    return {name: _names(layout, arch, name) for name in weight_shapes(arch)}


def _names(layout: Layout, arch: Architecture, name: str) -> list[str]:
    if layout == "timm":
        return [name]
    module, _, leaf = name.rpartition(".")
    if layout == "original" and module.endswith(".conv2"):
        return [f"{module}.convs.{group}.weight" for group in range(arch.cardinality)]
    if module.rpartition(".")[2].startswith("bn") or module.endswith("downsample.1"):
        leaf = _BN[leaf]
    module = {"conv1": "layer0.0", "bn1": "layer0.1", "fc": HEAD[layout]}.get(module, module)
    for ours, theirs in zip(SE["timm"], SE[layout], strict=True):
        module = module.replace(f".{ours}", f".{theirs}")
    return [f"{module}.{leaf}"]


def to_entries(
    layout: Layout,
    arch: Architecture,
    weights: Mapping[str, NDArray[Any]],
    momentum: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, NDArray[Any]]:
    """The layout's entries for canonical weights, and `moments.*` for momentum where given.

    The layout's own network may have another padding of the max-pool (`MAX_POOL`) and other biases
    (`with_biases`): that is the caller's to check. Raises UserError for another kind of network.
    """
    names = layout_names(layout, arch)
    entries: dict[str, NDArray[Any]] = {}
    for prefix, arrays in (("", weights), (MOMENTUM_PREFIX, momentum or {})):
        for name in (n for n in names if n in arrays):  # safetensors reads in a random order
            array = arrays[name]
            if layout == "mindcv" and ".se." in name and name.endswith(".weight"):
                array = array.reshape(array.shape[:2])
            parts = names[name]
            for group, part in enumerate(parts):
                size = len(array) // len(parts)
                entries[prefix + part] = array[group * size : (group + 1) * size]
    return entries
