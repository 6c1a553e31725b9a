"""`seresnext data`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class DataDemoArgs:
    """Write the handwritten digits that scikit-learn ships (1,797 scans) as an image folder."""

    out: Path = Path("data/digits")
    """Where to."""


def run(argv: list[str]) -> int:
    if argv[:1] != ["demo"]:
        known = not argv or argv[0] in ("-h", "--help")
        print("usage: seresnext data demo [--out DIR]", file=sys.stdout if known else sys.stderr)
        return 0 if known else 2
    args = tyro.cli(DataDemoArgs, args=argv[1:], prog="seresnext data demo")
    from ..data.demo import write_digits

    write_digits(args.out)
    print(f"digits: {args.out}/train, {args.out}/val")
    return 0
