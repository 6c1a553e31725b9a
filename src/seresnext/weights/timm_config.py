"""Class names and input from the `config.json` that timm and transformers write.

Every setting is read, or refused by name: none is replaced by a default in silence. Where a setting
is absent or null, timm's own default counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..model.architecture import MODEL_NAMES, Architecture
from ..model.spec import InputSpec, ModelSpec

_CROPS = {"center": "short", "squash": "stretch"}
"""timm's `crop_mode` -> `InputSpec.resize`."""


def read_timm_config(
    config: dict[str, Any], arch: Architecture, file: Path
) -> tuple[ModelSpec, list[str]]:
    """(the model that `config` describes, notes). Raises UserError for what cannot be taken over.

    Versions of timm before 0.9 wrote the settings beside the architecture and `labels`, later ones
    under `pretrained_cfg` and `label_names`; transformers adds `id2label`.
    """
    name = str(config.get("architecture"))
    if not name.startswith(("seresnet", "seresnext")) or "aa" in name:
        # Anti-aliased and other variants have the same shapes; only the name differs.
        raise UserError(
            f"{file} names the architecture {name!r}, which is not of this family "
            f"({', '.join(MODEL_NAMES)})"
        )
    given = config.get("pretrained_cfg", config)
    if not isinstance(given, dict):
        raise UserError(f"{file}: pretrained_cfg is not as timm writes it: {type(given).__name__}")
    _refuse_other_networks(config, file)
    try:
        inputs = _input(given)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{file}: pretrained_cfg is not as timm writes it ({error})") from None
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    labels = _labels(config, given)
    if labels is None:
        names = tuple(str(index) for index in range(arch.num_classes))
        return ModelSpec(arch, names, inputs), ["it names no classes; they are numbered"]
    if len(labels) != arch.num_classes:
        raise UserError(
            f"{file} names {len(labels)} classes, the network has {arch.num_classes}; correct the "
            "list, or remove it to have the classes numbered"
        )
    return ModelSpec(arch, tuple(map(str, labels)), inputs), []


def _refuse_other_networks(config: dict[str, Any], file: Path) -> None:
    """Raise UserError for options that change what a network computes, but no shape."""
    options = config.get("model_args")
    options = options if isinstance(options, dict) else {}
    for name, usual in (
        ("global_pool", ("avg",)),
        ("output_stride", (32,)),
        ("aa_layer", ("",)),
        ("act_layer", ("relu",)),
        ("norm_layer", ("batchnorm", "batchnorm2d")),
    ):
        for value in (options.get(name), config.get(name)):
            if value is not None and value not in usual:
                raise UserError(
                    f"{file}: {name} is {value!r}; the networks of this family have {usual[0]!r}"
                )


def _input(given: dict[str, Any]) -> InputSpec:
    size = given.get("input_size") or (3, 224, 224)
    if len(size) != 3 or size[0] != 3 or size[1] != size[2]:
        raise UserError(f"input_size: expected [3, S, S], a square in RGB, got {list(size)}")
    crop = given.get("crop_mode") or "center"
    if crop not in _CROPS:
        raise UserError(
            f"crop_mode: expected one of {', '.join(_CROPS)}, got {crop!r}; set one of them in the "
            "file if its pixels are near enough"
        )
    mean, std = (given.get(name) or getattr(InputSpec, name) for name in ("mean", "std"))
    return InputSpec(
        image_size=int(size[1]),
        crop_ratio=float(given.get("crop_pct") or 0.875),
        interpolation=given.get("interpolation") or "bicubic",
        resize=_CROPS[crop],  # type: ignore[arg-type]
        mean=tuple(float(v) for v in mean),  # type: ignore[arg-type]
        std=tuple(float(v) for v in std),  # type: ignore[arg-type]
    )


def _labels(config: dict[str, Any], given: dict[str, Any]) -> list[Any] | None:
    """The class names, in the order of the classes; None if there are none."""
    for holder, key in ((config, "label_names"), (given, "label_names"), (given, "labels")):
        if isinstance(holder.get(key), list) and holder[key]:
            return list(holder[key])
    by_index = config.get("id2label")
    if isinstance(by_index, dict) and by_index:
        try:
            return [by_index[str(index)] for index in range(len(by_index))]
        except KeyError:
            return None
    return None
