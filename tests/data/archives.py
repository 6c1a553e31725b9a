"""Archives for the tests: tars of folders, and ImageNet's three files in miniature."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from seresnext.data.sources import imagenet

WNIDS = ("n01440764", "n01443537", "n02105855")
"""Classes in order; their ILSVRC2012_ID are 3, 1, 2, as the real ones are in another order, too."""
_IDS = (3, 1, 2)
PHOTOS = 7
"""Training images of each class."""


def tar(files: Iterable[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_imagenet(root: Path) -> tuple[Path, Path]:
    """Write miniature official archives, and the folders that people make of them.

    Returns the folder of the archives and the folder of the folders.
    """
    archives, folders = root / "archives", root / "folders"
    archives.mkdir()
    rng = np.random.default_rng(0)
    classes, val, truth = [], [], []
    for k, wnid in enumerate(WNIDS):
        files = []
        for i in range(PHOTOS):
            files.append((f"{wnid}_{i * 37 % 50}.JPEG", _jpeg(rng, k)))
        for name, data in files:
            path = folders / "train" / wnid / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        classes.append((f"{wnid}.tar", tar(files)))
    for i in range(1, 6):
        k = i % len(WNIDS)
        name, data = f"ILSVRC2012_val_{i:08}.JPEG", _jpeg(rng, k)
        truth.append(str(_IDS[k]))
        val.append((name, data))
        path = folders / "val" / WNIDS[k] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (archives / imagenet.TRAIN).write_bytes(tar(classes[::-1]))
    (archives / imagenet.VAL).write_bytes(tar(val))
    devkit = "ILSVRC2012_devkit_t12"
    files = [
        (f"{devkit}/readme.txt", b"x"),
        (f"{devkit}/data/ILSVRC2012_validation_ground_truth.txt", "\n".join(truth).encode()),
        (f"{devkit}/data/meta.mat", meta()),
    ]
    (archives / imagenet.DEVKIT).write_bytes(gzip.compress(tar(files)))
    return archives, folders


def meta(compressed: bool = True) -> bytes:
    """The devkit's meta.mat: 3 classes, and a synset above them."""
    fields = [
        *(("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")),
        *(("num_children", "O"), ("children", "O"), ("wordnet_height", "O")),
    ]
    synsets = np.empty((len(WNIDS) + 1, 1), fields)
    for row, (number, wnid) in enumerate(zip((*_IDS, 1001), (*WNIDS, "n00001740"), strict=True)):
        children = np.array([1.0, 2.0, 3.0]) if number > 1000 else np.zeros(0)
        synsets[row, 0] = (float(number), wnid, "tench, Tinca tinca", "a fish", 3.0, children, 0.0)
    buffer = io.BytesIO()
    savemat(buffer, {"other": np.eye(3), "synsets": synsets}, do_compression=compressed)
    return buffer.getvalue()


def _jpeg(rng: np.random.Generator, channel: int) -> bytes:
    pixels = rng.integers(0, 90, (36, 40, 3), np.uint8)
    pixels[..., channel] += 120
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()
