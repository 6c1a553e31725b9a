"""`seresnext data`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DataConfig, load_config
from ..config.recipes import recipe
from ..config.typed import with_flags
from ..errors import UsageError, listed, printable
from ..files import to_json
from ..flags import HELP, Positional, parse
from .options import DecodingOptions, JsonOption, second_word

if TYPE_CHECKING:
    from ..data.inspection import Report, SplitReport

WORDS = {
    "check": "decode every image; list what is unreadable, odd or there twice",
    "pack": "write images as tar shards",
    "show": "draw training images as the network gets them",
    "demo": "write the handwritten digits",
}
"""Second word -> what it does."""


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


@dataclass(frozen=True, kw_only=True)
class DataCheckArgs(JsonOption, DecodingOptions):
    """Decode every image and list what is unreadable, odd, or there twice.

    The exit code is 1 where an image cannot be read, or an archive has another MD5.
    """

    source: Positional[Path]
    """Folder, list or archives, as train takes them."""
    html: Path | None = None
    """Also write what was found as a page, with pictures."""
    md5: bool = False
    """Compare ImageNet's archives with their official MD5 instead."""
    follow_links: bool = False
    """Follow links to files and folders."""
    max_pixels: int = DataConfig().max_pixels
    """Images with more pixels are not read."""


@dataclass(frozen=True, kw_only=True)
class DataShowArgs(DecodingOptions):
    """Draw the first training images of a run as the network gets them, at their final size."""

    source: Positional[Path]
    """Folder, list or archives, as train takes them."""
    out: Path = Path("training-images.png")
    """PNG to write."""
    recipe: str | None = None
    """Whose augmentation; `seresnext recipes` lists them. By default finetune."""
    config: Path | None = None
    """A run's config.json instead of a recipe."""
    images: int = 36
    """Number of images, 2 to 256; rounded up to whole pairs and repeats."""
    image_size: int | None = None
    """Side of the images, pixels."""
    seed: int | None = None
    """Another number draws others."""


def run(argv: list[str]) -> int:
    if argv and argv[0] in HELP:
        print("usage: seresnext data WORD [OPTIONS]\n")
        print("\n".join(f"  {word:<6} {text}" for word, text in WORDS.items()))
        print("\n`seresnext data WORD --help` lists the options.")
        return 0
    word, argv = second_word(argv, "seresnext data", tuple(WORDS))
    return {"check": _check, "pack": _pack, "show": _show, "demo": _demo}[word](argv)


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
        shrunk = f", {len(done.shrunk)} shrunk now" if args.max_side else ""
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


def _check(argv: list[str]) -> int:
    args = parse(DataCheckArgs, argv, "seresnext data check")
    from ..data.inspection import compare_md5, inspect_images

    if args.md5:
        same = compare_md5(args.source)
        lines = [f"{name}: {'as published' if ok else 'differs'}" for name, ok in same.items()]
        print(to_json({"md5": same}) if args.json else "\n".join(lines))
        return 0 if all(same.values()) else 1
    report = inspect_images(
        args.source,
        max_pixels=args.max_pixels,
        workers=args.workers,
        follow_links=args.follow_links,
    )
    if args.html:
        from ..report.findings import write_findings

        write_findings(
            args.html,
            args.source,
            report,
            follow_links=args.follow_links,
            max_pixels=args.max_pixels,
        )
    if args.json:
        print(to_json(asdict(report)))
    else:
        print(printable_lines(report))
    return 1 if report.unreadable else 0


def printable_lines(report: Report) -> str:
    """Return the report as lines; names that a terminal would act on are escaped."""
    lines = [line for split in report.splits.values() for line in _split_lines(split)]
    for text, groups in (
        ("groups of images with the same bytes", report.duplicates),
        ("groups with the same bytes in several splits", report.duplicates_across),
        ("groups of images that look alike", report.near),
        ("groups that look alike in several splits", report.near_across),
    ):
        if groups:
            lines.append(
                f"{len(groups)} {text}: {listed([listed(g, ' = ') for g in groups], '; ')}"
            )
    return "\n".join(map(printable, lines))


def _split_lines(split: SplitReport) -> Iterator[str]:
    from ..data.inspection import ODDITIES

    counts = split.classes.values()
    yield (
        f"{split.data}: {split.images} images in {len(split.classes)} classes of {min(counts)} to "
        f"{max(counts)}; {len(split.unreadable)} unreadable"
    )
    for bad in split.unreadable:
        yield f"  unreadable: {bad['file']}: {bad['reason']}"
    for key, files in split.oddities.items():
        if files:
            yield f"  {len(files)} {ODDITIES[key]}: {listed(files)}"
    for names in split.names_alike[:8]:
        yield f"  names that differ in case or Unicode form only: {', '.join(names)}"
    if split.smallest:
        yield f"  smallest {_size(split.smallest)}, largest {_size(split.largest)}"


def _size(entry: dict[str, Any]) -> str:
    return f"{entry['width']} x {entry['height']} ({entry['file']})"


def _show(argv: list[str]) -> int:
    args = parse(DataShowArgs, argv, "seresnext data show")
    if not 2 <= args.images <= 256:
        raise UsageError(f"--images: expected 2 to 256, got {args.images}")
    if args.out.suffix.lower() != ".png":
        raise UsageError(f"--out {args.out}: expected a name that ends in .png")
    if args.recipe and args.config:
        raise UsageError("give --recipe or --config, not both")
    from ..data.show import write_sheet

    typed = {"data": str(args.source), "workers": args.workers, "seed": args.seed}
    typed |= {"image_size": args.image_size}
    base = load_config(args.config) if args.config else recipe(args.recipe or "finetune")
    base = base.replace(augment={"start_size": 0})
    config = with_flags(base, {key: value for key, value in typed.items() if value is not None})
    data = replace(config.data, train="", val="", drop_last=False)
    if Path(base.data.root).resolve() != args.source.resolve():
        data = replace(data, val_share=None)  # that of other images
    config = replace(config, data=data)
    images = write_sheet(config, args.out, args.images)
    print(f"{printable(str(args.out))}: {images} images as {config.recipe} trains on them")
    return 0


def _bytes(text: str) -> int:
    """Return the bytes of a size such as 512MB. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6}) ?(kB|MB|GB)", text, re.IGNORECASE)
    if not found or not int(found[1]):
        raise UsageError(f"--shard-size: expected a size such as 512MB or 2GB, got {text!r}")
    return int(found[1]) * {"k": 10**3, "m": 10**6, "g": 10**9}[found[2][0].lower()]
