"""Writes the images of any source as tar shards in the WebDataset layout."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..files import read_json, replacing, write_json
from .decode import ImageError, open_image
from .parallel import in_order, progress
from .sources import Source, all_parts, open_part, open_source
from .sources.folder import SPLITS
from .sources.shards import CLASSES, samples
from .sources.tar import members, reading

RECORD = "pack.json"
"""In a folder of shards: the images and the options that they were made of."""


@dataclass(frozen=True)
class Packing:
    """How images are packed."""

    max_side: int = 0
    """Images with a longer side are shrunk to it and stored as JPEG; 0 copies all byte for byte."""
    quality: int = 90
    """Of these JPEGs, 1 to 100."""
    shard_bytes: int = 512_000_000
    """Bytes of images in a shard, at most, unless one alone has more."""
    max_pixels: int = 210_000_000
    """Images with more are copied as they are."""


@dataclass
class Packed:
    """What was packed."""

    folder: Path
    images: int = 0
    shards: int = 0
    bytes: int = 0
    shrunk: list[str] = field(default_factory=list)
    """Images shrunk in this call."""
    unreadable: list[str] = field(default_factory=list)
    """Images that could not be decoded in this call, and were copied as they are."""
    same: bool = False
    """Whether the shards have the source's fingerprint."""


def pack(
    root: Path, out: Path, options: Packing, *, workers: int = 0, follow_links: bool = False
) -> Iterator[Packed]:
    """Write the images at `root` to `out`; yield what was written of each split.

    The shards of a split are in the folder of its name, those of a source without splits in `out`.
    Each is read back and compared before it gets its name; a second call goes on after the last
    one. Raises UserError.
    """
    classes = None
    for split, part in all_parts(root).items():
        source = open_part(
            part, class_names=classes, allow_empty_classes=True, follow_links=follow_links
        )
        classes = source.class_names
        yield _pack(source, out / split, options, workers)


def _pack(source: Source, folder: Path, options: Packing, workers: int) -> Packed:
    _begin(source, folder, options)
    ends = _plan(source, options.shard_bytes)
    names = _names(source)
    packed = Packed(folder, len(source), len(ends))
    with progress(f"packing {len(source)} images into {folder}", len(source)) as advance:
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            shard = folder / f"{number:06}.tar"
            if not shard.exists():
                images = _Images(source, options, packed)
                with closing(in_order(images.read, range(start, end), workers)) as read:
                    _write(shard, read, source.labels, names[start:end])
            packed.bytes += shard.stat().st_size
            advance(end - start)
    stored = open_source(folder, allow_empty_classes=True)
    packed.same = stored.fingerprint() == source.fingerprint()
    return packed


def _begin(source: Source, folder: Path, options: Packing) -> None:
    """Make the folder. Raises UserError where it holds something else."""
    classes = "\n".join(source.class_names)
    if classes.splitlines() != list(source.class_names):
        raise UserError("class names with line ends cannot be packed; rename their folders")
    record = {"fingerprint": source.fingerprint(), **asdict(options)}
    if (folder / RECORD).exists():
        if read_json(folder / RECORD) != record:
            raise UserError(
                f"{folder} holds shards of other images or options; choose another --out"
            )
    elif folder.is_dir() and any(entry.name not in SPLITS for entry in folder.iterdir()):
        raise UserError(f"{folder} exists and is not empty; choose another --out")
    write_json(folder / RECORD, record)
    for unfinished in folder.glob(".*.tar.*"):  # of a call that was killed
        unfinished.unlink()
    with replacing(folder / CLASSES) as temporary:
        temporary.write_text(f"{classes}\n", encoding="utf-8")


def _plan(source: Source, most: int) -> list[int]:
    """Return the index after the last image of each shard, from the sizes in the source."""
    ends, total = [], 0
    for index in range(len(source)):
        size = max(source.size(index), 0)
        if total and total + size > most:
            ends.append(index)
            total = 0
        total += size
    return [*ends, len(source)]


def _names(source: Source) -> list[str]:
    """Return the names in the archives, without ending, each once.

    They are the source's, as far as the layout allows: it takes what follows the first dot for the
    ending, and two images that differ in their ending alone for one sample.
    """
    seen: Counter[str] = Counter()
    names = []
    for index in range(len(source)):
        folder, base = os.path.split(os.path.splitext(source.name(index))[0].lstrip("/"))
        parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
        name = "/".join([*parts, base.replace(".", "_")])
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


@dataclass(frozen=True)
class _Images:
    """Reads the images as they are stored."""

    source: Source
    options: Packing
    packed: Packed

    def read(self, index: int) -> tuple[int, bytes, str]:
        """Return an image's index, its bytes and its ending. Raises UserError."""
        name = self.source.describe(index)
        try:
            data = self.source[index].data
        except OSError as error:
            raise UserError(f"cannot read image {name}: {error.strerror or error}") from None
        if self.options.max_side:
            try:
                image = open_image(data, self.options.max_pixels)
                if max(image.width, image.height) > self.options.max_side:
                    self.packed.shrunk.append(name)
                    return index, self._shrunk(image.pixels()), ".jpg"
            except ImageError:
                self.packed.unreadable.append(name)
        return index, data, os.path.splitext(name)[1]

    def _shrunk(self, pixels: NDArray[np.uint8]) -> bytes:
        height, width = pixels.shape[:2]
        scale = self.options.max_side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        return bytes(
            simplejpeg.encode_jpeg(np.array(small), self.options.quality, colorsubsampling="420")
        )


def _write(
    shard: Path,
    images: Iterator[tuple[int, bytes, str]],
    labels: NDArray[np.int32],
    names: list[str],
) -> None:
    """Write an archive, read it back and compare. Raises UserError."""
    written = []
    with replacing(shard, sync=True) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
            for (index, data, ending), name in zip(images, names, strict=True):
                _add(archive, name + ending, data)
                _add(archive, f"{name}.cls", b"%d" % labels[index])
                written.append((name + ending, int(labels[index]), zlib.crc32(data)))
        with reading(temporary) as (read, size):
            found = members(read, 0, size, str(shard), Counter())
            again = [(i.name, i.label, i.crc32) for i in samples(read, found, Counter(), shard)]
        if again != written:
            raise UserError(f"{shard} differs when it is read back; the disk may be damaged")


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
