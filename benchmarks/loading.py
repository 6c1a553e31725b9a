"""JPEG -> random-resized crop of 224 px: images per second, beside other loaders.

    python benchmarks/loading.py [--threads 2] [--images 1024] [--rounds 5]

Every loader reads the same 200 synthetic photos from disk (500 x 375, JPEG; each under ten names,
so that lists are of a usual length), decodes, crops at random (area 8-100 %, ratio 3/4 to 4/3),
resizes with antialiasing where it offers that, flips half of them, and hands over uint8 batches of
64. Each has a process of its own and they run in turn, round by round, the others stopped
meanwhile, so that what else the machine does meets all of them; medians and the median of the
rounds' ratios are printed. On a busy machine trust the processor time per image: images per second
then depend on how many threads a loader has and how they are scheduled. Loaders that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

BATCH = 64
SIZE = 224
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)

# The photos ---------------------------------------------------------------------------------


def write_photos(folder: Path, count: int = 200) -> None:
    """Crops of scikit-learn's two photos, zoomed, lit and grained differently, in 10 classes."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photos = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(count):
        photo = photos[i % 2]
        zoom = rng.uniform(0.4, 0.87)
        w, h = 500 * zoom * 640 / 500, 375 * zoom * 427 / 375
        x, y = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
        pixels = np.asarray(
            photo.resize((500, 375), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h)), np.float32
        )
        light = 1 + 0.3 * np.outer(np.linspace(-1, 1, 375), np.linspace(-1, 1, 500))
        grain = rng.normal(0, rng.uniform(1, 6), pixels.shape)
        pixels = np.clip(pixels * light[..., None] + grain, 0, 255).astype(np.uint8)
        path = folder / f"class{i % 10}" / f"photo{i:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, quality=int(rng.integers(80, 96)))
        for k in range(1, 10):
            os.link(path, path.with_stem(f"{path.stem}-{k}"))


# The loaders: threads, folder -> endless batches ---------------------------------------------


def ours(threads: int, folder: Path) -> Iterator[np.ndarray]:
    from seresnext.config import AugmentConfig, DataConfig
    from seresnext.data.loader import Reader, Share, train_batches
    from seresnext.data.sources import open_source

    batches = train_batches(
        Reader(open_source(folder), DataConfig(workers=threads)),
        AugmentConfig(image_size=SIZE, crop_scale=AREA, crop_ratio=RATIO, color_jitter=(0,) * 4),
        Share(BATCH),
        seed=0,
    )
    for batch in batches:
        yield batch.images


def pillow(threads: int, folder: Path) -> Iterator[np.ndarray]:
    paths = sorted(folder.glob("*/*.jpg"))

    def load(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        image = Image.open(io.BytesIO(paths[rng.integers(len(paths))].read_bytes()))
        width, height = image.size
        while True:
            area = width * height * rng.uniform(*AREA)
            ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w <= width and h <= height:
                break
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        image.draft("RGB", (max(1, width * SIZE // w), max(1, height * SIZE // h)))
        sx, sy = image.width / width, image.height / height
        box = (x * sx, y * sy, (x + w) * sx, (y + h) * sy)
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    with ThreadPoolExecutor(threads) as pool:
        ahead = [pool.submit(load, i) for i in range(2 * BATCH)]
        seed = len(ahead)
        while True:
            rows = [future.result() for future in ahead[:BATCH]]
            ahead = ahead[BATCH:] + [pool.submit(load, seed + i) for i in range(BATCH)]
            seed += BATCH
            yield np.stack(rows)


def dali(threads: int, folder: Path) -> Iterator[np.ndarray]:
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None, prefetch_queue_depth=2)
    def pipeline():  # type: ignore[no-untyped-def]
        encoded, _ = fn.readers.file(file_root=str(folder), random_shuffle=True)
        images = fn.decoders.image_random_crop(
            encoded, device="cpu", random_area=list(AREA), random_aspect_ratio=list(RATIO)
        )
        images = fn.resize(images, size=(SIZE, SIZE))
        return fn.flip(images, horizontal=fn.random.coin_flip(probability=0.5))

    pipe = pipeline()
    pipe.build()
    while True:
        (images,) = pipe.run()
        yield np.asarray(images.as_tensor())


def mindspore(threads: int, folder: Path) -> Iterator[np.ndarray]:
    from mindspore import dataset
    from mindspore.dataset import vision

    dataset.config.set_prefetch_size(1)  # else a thousand images wait, made before the clock runs
    images = dataset.ImageFolderDataset(
        str(folder), num_parallel_workers=threads, shuffle=True, decode=False
    ).repeat(100_000)
    images = images.map(
        [vision.RandomCropDecodeResize(SIZE, AREA, RATIO), vision.RandomHorizontalFlip(0.5)],
        input_columns="image",
        num_parallel_workers=threads,
    )
    images = images.batch(BATCH, num_parallel_workers=1)
    for batch, _ in images.create_tuple_iterator(num_epochs=1, output_numpy=True):
        yield batch


# Measuring ----------------------------------------------------------------------------------


LOADERS: dict[str, Callable[[int, Path], Iterator[np.ndarray]]] = {
    "ours": ours,
    "mindspore": mindspore,
    "dali": dali,
    "pillow": pillow,
}


def serve(name: str, threads: int, folder: Path, pipe: Connection) -> None:
    """A loader's process: measures whenever it is sent a number of images."""
    try:
        batches = LOADERS[name](threads, folder)
        next(batches)
    except ImportError as error:
        pipe.send(error)
        return
    pipe.send(None)
    while images := pipe.recv():
        pipe.send(measure(batches, images))
    batches.close()  # type: ignore[attr-defined]


def measure(batches: Iterator[np.ndarray], images: int) -> tuple[float, float]:
    """Images per second, and processor time per image in ms, from the ninth batch on.

    By then what was made beforehand is used up.
    """
    for _ in range(8):
        next(batches)
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(images // BATCH):
        batch = next(batches)
    busy = time.process_time() - busy
    seconds = time.perf_counter() - start
    assert batch.shape == (BATCH, SIZE, SIZE, 3)
    assert batch.dtype == np.uint8
    count = images // BATCH * BATCH
    return count / seconds, 1000 * busy / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=1024, help="per loader and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loaders", nargs="+", default=list(LOADERS), choices=list(LOADERS))
    args = parser.parse_args()
    if args.images < BATCH:
        parser.error(f"--images: expected at least a batch, {BATCH}")
    measured: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photos(folder)
        kilobytes = statistics.mean(p.stat().st_size for p in folder.glob("*/*")) / 1000
        print(f"{args.threads} threads, {os.cpu_count()} cores, photos of {kilobytes:.0f} kB")
        running = {}
        spawn = multiprocessing.get_context("spawn")
        for name in args.loaders:
            pipe, far = spawn.Pipe()
            process = spawn.Process(
                target=serve, args=(name, args.threads, folder, far), daemon=True
            )
            process.start()
            far.close()  # so that a loader that dies ends the wait for its answer
            if error := pipe.recv():
                print(f"left out: {name} ({error})")
                continue
            os.kill(process.pid, signal.SIGSTOP)
            running[name] = process, pipe
        for _ in range(args.rounds):
            for name, (process, pipe) in running.items():
                os.kill(process.pid, signal.SIGCONT)
                pipe.send(args.images)
                measured.setdefault(name, []).append(pipe.recv())
                os.kill(process.pid, signal.SIGSTOP)
        for process, pipe in running.values():
            os.kill(process.pid, signal.SIGCONT)
            pipe.send(0)
            process.join(10)
            process.kill()
    report(measured)


def report(measured: dict[str, list[tuple[float, float]]]) -> None:
    """Print one line a loader; ratios above 1 say that ours is ahead."""
    header = f"{'loader':<12}{'images/s':>10}{'lowest':>9}{'highest':>9}{'ours is':>9}"
    print(f"{header}{'CPU ms/image':>14}{'ours takes':>12}")
    for name, values in measured.items():
        rates, busy = zip(*values, strict=True)
        pairs = list(zip(measured["ours"], values, strict=True))
        faster = statistics.median(mine[0] / other[0] for mine, other in pairs)
        cheaper = statistics.median(mine[1] / other[1] for mine, other in pairs)
        print(
            f"{name:<12}{statistics.median(rates):>10.0f}{min(rates):>9.0f}{max(rates):>9.0f}"
            f"{faster:>8.2f}x{statistics.median(busy):>14.2f}{cheaper:>11.2f}x"
        )


if __name__ == "__main__":
    main()
