"""How training images are stored: images per second of one core, and their size.

    python benchmarks/stored.py [--images 100] [--rounds 11]

The photos of `seresnext bench loader` become random-resized crops of 224 px, from the JPEG files as
they are, from JPEGs of a short side of 256 px (as `seresnext data pack --max-side` makes them), and
from decoded pixels in memory of both sizes. In turn, round by round; medians of processor time.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from seresnext.bench.photos import write_photos
from seresnext.config import AugmentConfig
from seresnext.data.augment import augment, augment_encoded
from seresnext.data.decode import decode_image
from seresnext.data.order import sample_rng

SIDE = 256
MOST = 10**8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), args.images)
        whole = [path.read_bytes() for path in sorted(Path(folder).glob("*/photo???.jpg"))]
    small = [shrunk(data) for data in whole]
    pixels, small_pixels = ([decode_image(d, max_pixels=MOST) for d in s] for s in (whole, small))
    config = AugmentConfig(color_jitter=(0.0, 0.0, 0.0, 0.0))
    encoded = partial(augment_encoded, max_pixels=MOST)
    ways: dict[str, tuple[Callable[..., np.ndarray], list]] = {
        "JPEG of 500 x 375": (encoded, whole),
        f"JPEG, short side {SIDE}": (encoded, small),
        "pixels of 500 x 375": (augment, pixels),
        f"pixels, short side {SIDE}": (augment, small_pixels),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds):
        for name, (make, images) in ways.items():
            start = time.process_time()
            for index, image in enumerate(images):
                make(image, config=config, rng=sample_rng(0, number, index))
            rates[name].append(len(images) / (time.process_time() - start))
    print(f"{'stored as':26} {'images/s':>9} {'ratio':>6} {'kB':>6}")
    first = next(iter(rates))
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, rates[first], strict=True))
        images = ways[name][1]
        size = sum(len(i) if isinstance(i, bytes) else i.nbytes for i in images) / len(images)
        print(f"{name:26} {statistics.median(found):9.0f} {ratio:6.2f} {size / 1000:6.0f}")


def shrunk(data: bytes) -> bytes:
    """Return a JPEG with a short side of `SIDE` pixels."""
    image = Image.open(io.BytesIO(data))
    factor = SIDE / min(image.size)
    out = io.BytesIO()
    size = (round(image.width * factor), round(image.height * factor))
    image.resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=90)
    return out.getvalue()


if __name__ == "__main__":
    main()
