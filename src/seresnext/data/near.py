"""Images that look alike: sketches of 64 bits that survive resizing, recompression and a change of
brightness."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

BITS = 4
"""Sketches that differ in so many bits or fewer are compared further."""
LEVELS = 6.0
"""Mean difference of two thumbnails, in grey levels of 255, up to which they look alike."""
_CHUNKS = BITS + 1
_SIDE = 8
_FLAT = 4.0
"""Deviation of the grey levels below which an image shows nothing to compare."""
_POPCOUNT = np.array([i.bit_count() for i in range(1 << 16)], np.uint8)


class Sketch(NamedTuple):
    """What is kept of an image's look."""

    bits: int
    """Signs of the 64 lowest frequencies of its cosine transform, against their median; 0 for an
    image of one colour."""
    thumbnail: bytes
    """8 x 8 grey levels, brightness and contrast evened out."""


def sketch(pixels: NDArray[np.uint8]) -> Sketch:
    """Return the sketch of an image, uint8 [H, W, 3]: the DCT hash that is known as pHash."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_SIDE, :_SIDE].ravel()
    deviation = float(small.std())
    if deviation < _FLAT:
        return Sketch(0, b"\0" * _SIDE**2)
    signs = low > np.median(low[1:])
    thumbnail = cv2.resize(small, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    evened = np.clip(128 + 48 * (thumbnail - small.mean()) / deviation, 0, 255)
    return Sketch(
        int.from_bytes(np.packbits(signs).tobytes(), "big"), evened.astype(np.uint8).tobytes()
    )


def groups(sketches: list[Sketch]) -> list[list[int]]:
    """Return groups of positions whose images look alike, each linked to another of its group.

    Two sketches within `BITS` bits have one of `BITS` + 1 pieces of their bits in common, so that
    only images with a common piece are compared.
    """
    bits = np.array([s.bits for s in sketches], np.uint64)
    thumbnails = np.frombuffer(b"".join(s.thumbnail for s in sketches), np.uint8)
    thumbnails = thumbnails.reshape(len(sketches), _SIDE**2)
    parent = list(range(len(sketches)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for a, b in _close(bits):
        difference = np.abs(thumbnails[a].astype(np.int16) - thumbnails[b])
        if difference.mean() <= LEVELS:
            parent[root(b)] = root(a)
    found: dict[int, list[int]] = defaultdict(list)
    for k in range(len(sketches)):
        found[root(k)].append(k)
    return [group for group in found.values() if len(group) > 1]


def _close(bits: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Yield pairs of positions within `BITS` bits, some more than once."""
    edges = [round(64 * k / _CHUNKS) for k in range(_CHUNKS + 1)]
    shown = np.flatnonzero(bits)
    for low, high in itertools.pairwise(edges):
        piece = (bits[shown] >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(piece, kind="stable")
        ends = np.flatnonzero(np.diff(piece[order])) + 1
        for members in np.split(shown[order], ends):
            for position, a in enumerate(members[:-1]):
                others = members[position + 1 :]
                near = others[_distance(bits[others], bits[a]) <= BITS]
                for b in near.tolist():
                    yield int(a), b


def _distance(bits: NDArray[np.uint64], other: np.uint64) -> NDArray[np.int64]:
    """Return the number of bits that differ from `other`, int64 [N]."""
    words = (bits ^ other).view(np.uint16).reshape(-1, 4)
    return _POPCOUNT[words].sum(1, dtype=np.int64)
