"""`seresnext data`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ..config import DataConfig
from ..errors import UsageError, printable
from ..flags import Positional, parse
from .options import DecodingOptions, second_word


@dataclass(frozen=True)
class DataDemoArgs:
    """Write the handwritten digits that scikit-learn ships (1,797 scans) as an image folder."""

    out: Path = Path("data/digits")
    """Where to."""


@dataclass(frozen=True, kw_only=True)
class DataPackArgs(DecodingOptions):
    """Write images as tar shards in the WebDataset layout, byte for byte unless told otherwise.

    Every shard is read back and compared. The same command goes on where it was interrupted.
    """

    source: Positional[Path]
    """Folder, list or archives, as train takes them."""
    out: Path
    """Folder to write to."""
    max_side: int | None = None
    """Shrink images with a longer side to it, and store these as JPEG."""
    quality: int | None = None
    """Of these JPEGs, 1 to 100; by default 90."""
    shard_size: str = "512MB"
    """Bytes in a shard, with kB, MB or GB."""
    follow_links: bool = False
    """Follow links to files and folders."""
    max_pixels: int = DataConfig().max_pixels
    """With --max-side, images with more pixels are copied as they are."""


def run(argv: list[str]) -> int:
    word, argv = second_word(argv, "seresnext data", ("demo", "pack"))
    return _pack(argv) if word == "pack" else _demo(argv)


def _demo(argv: list[str]) -> int:
    args = parse(DataDemoArgs, argv, "seresnext data demo")
    from ..data.demo import write_digits

    write_digits(args.out)
    print(f"digits: {args.out}/train, {args.out}/val")
    return 0


def _pack(argv: list[str]) -> int:
    args = parse(DataPackArgs, argv, "seresnext data pack")
    if args.quality is not None and args.max_side is None:
        raise UsageError("--quality needs --max-side; without it images are copied as they are")
    if args.max_side is not None and args.max_side < 32:
        raise UsageError(f"--max-side: expected 32 or more, got {args.max_side}")
    if args.quality is not None and not 1 <= args.quality <= 100:
        raise UsageError(f"--quality: expected 1 to 100, got {args.quality}")
    from ..data.pack import Packing, pack
    from ..data.sources import refuse_inside

    refuse_inside(args.out, DataConfig(root=str(args.source)))
    options = Packing(
        args.max_side or 0, args.quality or 90, _bytes(args.shard_size), args.max_pixels
    )
    for done in pack(
        args.source, args.out, options, workers=args.workers, follow_links=args.follow_links
    ):
        shrunk = f", {done.reencoded} shrunk now" if args.max_side else ""
        print(
            f"{done.folder}: {done.images} images in {done.shards} shards, "
            f"{done.bytes / 1e6:.1f} MB{shrunk}"
        )
        for name in done.unreadable:
            print(f"unreadable, copied as it is: {printable(name)}", file=sys.stderr)
        if not done.same:
            print("  the fingerprint is another one: runs on the source do not go on with these")
    print(f"next:  seresnext train --data {args.out}")
    return 0


def _bytes(text: str) -> int:
    """Return the bytes of a size such as 512MB. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6}) ?(kB|MB|GB)", text, re.IGNORECASE)
    if not found or not int(found[1]):
        raise UsageError(f"--shard-size: expected a size such as 512MB or 2GB, got {text!r}")
    return int(found[1]) * {"k": 10**3, "m": 10**6, "g": 10**9}[found[2][0].lower()]
