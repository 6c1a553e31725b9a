"""Damaged and hostile files of every kind: an answer, or one line and exit code 1.

Each case is a child process with 2 GB of memory and 10 s of processor time. The number of a case
decides it. To run one again: `python tests/fuzz/run_cases.py FOLDER NUMBER KIND:1`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from fuzz.run_cases import run_forked
from runtimes.networks import artifact, random_images, random_weights, tiny_spec
from seresnext.config import Config
from seresnext.errors import UserError
from seresnext.exporters.base import load_exporter
from seresnext.files import write_json
from seresnext.model.architecture import weight_shapes
from seresnext.model.saved_model import save_model
from seresnext.runtimes.formats import FORMATS
from seresnext.weights.ckpt import write_ckpt
from seresnext.weights.layouts import to_entries

SPEC = tiny_spec(cardinality=1, base_width=8)
WEIGHTS = {
    # Equal numbers: the files are small enough to be varied thousands of times.
    name: np.full(shape, 0.5, np.float32)
    for name, shape in weight_shapes(SPEC.architecture).items()
}


def images(folder: Path) -> None:
    pixels = Image.fromarray(random_images(1, 48)[0])
    for suffix in "jpg png webp bmp gif tiff".split():
        pixels.save(folder / f"rgb.{suffix}")
    pixels.save(folder / "progressive.jpg", progressive=True)
    pixels.convert("CMYK").save(folder / "cmyk.jpg")
    pixels.convert("P").save(folder / "palette.png", transparency=3)
    pixels.convert("RGBA").save(folder / "alpha.png", interlace=1)
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.save(folder / "turned.jpg", exif=exif)


def safetensors(folder: Path) -> None:
    save_model(folder, SPEC, WEIGHTS)
    (folder / "config.json").unlink()


def pth(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "a.pth")


def old_pth(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
    torch.save(state, folder / "a.pth", _use_new_zipfile_serialization=False)


def ckpt(folder: Path) -> None:
    write_ckpt(folder / "a.ckpt", to_entries("mindcv", SPEC.architecture, WEIGHTS))


def folders(folder: Path) -> None:
    """This package's model, timm's, and one in two files with an index."""
    for name in ("ours", "timm", "parts"):
        (folder / name).mkdir()
    save_model(folder / "ours", SPEC, WEIGHTS)
    save_file(WEIGHTS, folder / "timm" / "model.safetensors")
    settings = {"input_size": [3, 64, 64], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.2] * 3}
    config = {"architecture": "seresnext50_32x4d", "label_names": list(SPEC.class_names)}
    write_json(folder / "timm" / "config.json", {**config, "pretrained_cfg": settings})
    names = list(WEIGHTS)
    parts = {"model-1.safetensors": names[:50], "model-2.safetensors": names[50:]}
    for file, part in parts.items():
        save_file({name: WEIGHTS[name] for name in part}, folder / "parts" / file)
    places = {name: file for file, part in parts.items() for name in part}
    write_json(folder / "parts" / "model.safetensors.index.json", {"weight_map": places})


def configs(folder: Path) -> None:
    write_json(folder / "config.json", asdict(Config()))


def rank_tables(folder: Path) -> None:
    device = {"device_id": "0", "device_ip": "192.168.1.2", "rank_id": "0"}
    server = {"server_id": "10.0.0.1", "device": [device], "host_nic_ip": "reserve"}
    table = {"version": "1.0", "server_count": "1", "server_list": [server], "status": "completed"}
    write_json(folder / "table.json", table)


def lists(folder: Path) -> None:
    labels, splits = ("cat", "d\u00f6g"), ("train", "train", "val")
    rows = [f"p/{i}.jpg,{labels[i % 2]},{splits[i % 3]}" for i in range(9)]
    (folder / "a.csv").write_text("\n".join(["path,label,split", *rows]))
    (folder / "b.tsv").write_text("\n".join(row.replace(",", "\t") for row in rows))


def yaml_settings(folder: Path) -> None:
    """The file that the zoo's commands read by default."""
    root = Path(__file__).parent.parent.parent
    (folder / "config.yaml").write_bytes((root / "config.yaml").read_bytes())


def exported(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        pytest.importorskip(FORMATS[kind].packages[0])
        exporter = load_exporter(FORMATS[kind])
        described = artifact(SPEC)
        network = exporter.build(described, random_weights(SPEC))
        (folder / "model").mkdir()
        exporter.write(network, described, folder / "model" / f"model{FORMATS[kind].suffix}")

    return write


SEEDS: dict[str, tuple[Callable[[Path], None], int, int]] = {
    "images": (images, 100, 1000),
    "safetensors": (safetensors, 8, 400),
    "pth": (pth, 4, 200),
    "old-pth": (old_pth, 4, 200),
    "ckpt": (ckpt, 4, 200),
    "folders": (folders, 9, 400),
    "configs": (configs, 40, 1000),
    "rank-tables": (rank_tables, 20, 200),
    "lists": (lists, 40, 1000),
    "yaml": (yaml_settings, 20, 400),
    "onnx": (exported("onnx"), 5, 200),
    "openvino": (exported("openvino"), 5, 100),
    "torch": (exported("torch"), 0, 40),
    "mindir": (exported("mindir"), 0, 40),
}
"""Kind -> what writes its seeds, cases in `make test`, cases in `make test-slow`."""
TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
"""How many times as many the slow tests try; `make fuzz` sets it."""
FILES = tuple(SEEDS)[:10]
"""Kinds that need no framework: one process runs them all."""


def run_cases(folder: Path, first: int, counts: dict[str, int]) -> None:
    for kind in counts:
        (folder / "seeds" / kind).mkdir(parents=True)
        SEEDS[kind][0](folder / "seeds" / kind)
    script = Path(__file__).with_name("run_cases.py")
    pairs = [f"{kind}:{count}" for kind, count in counts.items()]
    done = subprocess.run(
        [sys.executable, script, folder, str(first), *pairs], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    failures = "\n".join(f"{f['case']}: {f['problem']}" for f in report["failures"])
    assert not failures, failures
    assert report["cases"] == sum(counts.values())
    assert 0 < report["answers"] < report["cases"] or report["cases"] < 10


@pytest.mark.parametrize("kinds", [FILES, ("onnx",), ("openvino",)], ids="/".join)
def test_some_cases(kinds: tuple[str, ...], tmp_path: Path) -> None:
    run_cases(tmp_path, 0, {kind: SEEDS[kind][1] for kind in kinds})


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEEDS)
def test_many_cases(kind: str, tmp_path: Path) -> None:
    run_cases(tmp_path, 10_000, {kind: TIMES * SEEDS[kind][2]})


def refuse(path: Path) -> None:
    raise UserError("one line")


def chatter(path: Path) -> None:
    os.write(2, b"a library's own line\n")
    refuse(path)


@pytest.mark.parametrize(
    ("open_file", "problem"),
    [
        (lambda path: 1 / 0, "ZeroDivisionError"),
        (lambda path: os.kill(os.getpid(), signal.SIGKILL), "ended by SIGKILL"),
        (lambda path: bytearray(3 << 30), "MemoryError"),
        (lambda path: sys.exit(0), "SystemExit"),
        (chatter, "exit code 1"),
        (refuse, ""),
        (lambda path: None, ""),
    ],
)
def test_a_broken_reader_is_seen(
    open_file: Callable[[Path], object], problem: str, tmp_path: Path
) -> None:
    found = run_forked(open_file, tmp_path).problem
    assert problem in found
    assert bool(problem) == bool(found)
