"""`seresnext convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import UserError
from ..flags import Positional, parse


@dataclass(frozen=True)
class ConvertArgs:
    """Translate weights; every entry is accounted for.

    A model folder is written for `seresnext` and `timm`, a .safetensors file for `timm`, `mindcv`
    and `original`, a .ckpt for the last two.
    """

    source: Positional[Path]
    """Run folder, model folder (timm's too), .safetensors, .pth or .ckpt."""
    out: Positional[Path]
    """Folder or file to write."""
    to: Literal["seresnext", "timm", "original", "mindcv"] | None = None
    """Layout; by default a folder is seresnext's and a .safetensors timm's."""
    class_names: Path | None = None
    """Text file with one class name a line, in the order of the indices."""
    image_size: int | None = None
    """Side of the images that the network was trained for, pixels."""
    temperature: float = 1.0
    """Divide the logits by this, as evaluate finds it: probabilities are then calibrated."""
    keep_momentum: bool = False
    """Take the momentum of a training checkpoint into another .ckpt."""
    allow_pooling_change: bool = False
    """Write a network of one max-pool padding as one of the other, although its outputs are then
    some 20 % off."""


def run(argv: list[str]) -> int:
    args = parse(ConvertArgs, argv, "seresnext convert")
    from ..weights.convert import convert

    print(
        convert(
            args.source,
            args.out,
            to=args.to,
            class_names=_lines(args.class_names),
            image_size=args.image_size,
            temperature=args.temperature,
            keep_momentum=args.keep_momentum,
            allow_pooling_change=args.allow_pooling_change,
        )
    )
    return 0


def _lines(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        return tuple(path.read_text().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read class names {path}: {error}") from None
