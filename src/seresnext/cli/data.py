"""`seresnext data`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..flags import parse
from .options import second_word


@dataclass(frozen=True)
class DataDemoArgs:
    """Write the handwritten digits that scikit-learn ships (1,797 scans) as an image folder."""

    out: Path = Path("data/digits")
    """Where to."""


def run(argv: list[str]) -> int:
    _, argv = second_word(argv, "seresnext data", ("demo",))
    args = parse(DataDemoArgs, argv, "seresnext data demo")
    from ..data.demo import write_digits

    write_digits(args.out)
    print(f"digits: {args.out}/train, {args.out}/val")
    return 0
