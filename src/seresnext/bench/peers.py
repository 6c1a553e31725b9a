"""Other loaders of training images: random-resized crops, flipped, as uint8 batches without end.

Each decodes, crops, resizes (antialiased where it offers that) and flips half of the images of a
folder of class folders. They are imported where they are measured only.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BATCH = 64


@dataclass(frozen=True)
class Crops:
    """What every loader makes of the images of a folder."""

    folder: Path
    size: int
    area: tuple[float, float]
    ratio: tuple[float, float]
    threads: int


def pillow_crop(path: Path, crops: Crops, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return one image, uint8 [S, S, 3], decoded at a reduced size where that is enough."""
    image: Image.Image = Image.open(io.BytesIO(path.read_bytes()))
    width, height = image.size
    while True:
        area = width * height * rng.uniform(*crops.area)
        ratio = math.exp(rng.uniform(math.log(crops.ratio[0]), math.log(crops.ratio[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    image.draft("RGB", (max(1, width * crops.size // w), max(1, height * crops.size // h)))
    sx, sy = image.width / width, image.height / height
    box = (x * sx, y * sy, (x + w) * sx, (y + h) * sy)
    image = image.convert("RGB").resize(
        (crops.size, crops.size), Image.Resampling.BILINEAR, box=box
    )
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.is_file())


def pillow(crops: Crops) -> Iterator[NDArray[np.uint8]]:
    """Pillow in threads."""
    paths = _files(crops.folder)

    def load(seed: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        return pillow_crop(paths[rng.integers(len(paths))], crops, rng)

    with ThreadPoolExecutor(crops.threads) as pool:
        ahead = [pool.submit(load, i) for i in range(2 * BATCH)]
        seed = len(ahead)
        while True:
            rows = [future.result() for future in ahead[:BATCH]]
            ahead = ahead[BATCH:] + [pool.submit(load, seed + i) for i in range(BATCH)]
            seed += BATCH
            yield np.stack(rows)


class _Pictures:
    """PyTorch's map-style data set of `pillow_crop`."""

    def __init__(self, crops: Crops) -> None:
        self.crops, self.paths = crops, _files(crops.folder)

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng(index)
        return pillow_crop(self.paths[rng.integers(len(self.paths))], self.crops, rng)


def torch_loader(crops: Crops) -> Iterator[NDArray[np.uint8]]:
    """Pillow in the processes of PyTorch's DataLoader."""
    from torch.utils.data import DataLoader, SequentialSampler

    pictures: Any = _Pictures(crops)
    loader = DataLoader(
        pictures,
        BATCH,
        sampler=SequentialSampler(pictures),
        num_workers=crops.threads,
        collate_fn=np.stack,
    )
    yield from loader


def dali(crops: Crops) -> Iterator[NDArray[np.uint8]]:
    """NVIDIA's DALI on the CPU."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=BATCH, num_threads=crops.threads, device_id=None, prefetch_queue_depth=2
    )
    def pipeline() -> Any:
        encoded, _ = fn.readers.file(file_root=str(crops.folder), random_shuffle=True)
        images = fn.decoders.image_random_crop(
            encoded,
            device="cpu",
            random_area=list(crops.area),
            random_aspect_ratio=list(crops.ratio),
        )
        images = fn.resize(images, size=(crops.size, crops.size))
        return fn.flip(images, horizontal=fn.random.coin_flip(probability=0.5))

    pipe = pipeline()
    pipe.build()
    while True:
        (images,) = pipe.run()
        yield np.asarray(images.as_tensor())


def mindspore(crops: Crops) -> Iterator[NDArray[np.uint8]]:
    """mindspore.dataset."""
    from mindspore import dataset
    from mindspore.dataset import vision

    dataset.config.set_prefetch_size(1)  # else a thousand images wait, made before the clock runs
    images = dataset.ImageFolderDataset(
        str(crops.folder), num_parallel_workers=crops.threads, shuffle=True, decode=False
    ).repeat(100_000)
    operations = [
        vision.RandomCropDecodeResize(crops.size, crops.area, crops.ratio),
        vision.RandomHorizontalFlip(0.5),
    ]
    images = images.map(operations, input_columns="image", num_parallel_workers=crops.threads)
    images = images.batch(BATCH, num_parallel_workers=1)
    for batch, _ in images.create_tuple_iterator(num_epochs=1, output_numpy=True):
        yield batch


PEERS: dict[str, Callable[[Crops], Iterator[NDArray[np.uint8]]]] = {
    "mindspore": mindspore,
    "dali": dali,
    "pillow": pillow,
    "torch": torch_loader,
}
