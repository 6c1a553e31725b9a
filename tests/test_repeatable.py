"""Equal content gives equal bytes, in every format that is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seresnext.model.architecture import architecture, weight_shapes
from seresnext.weights.ckpt import write_ckpt
from seresnext.weights.layouts import to_entries

WRITE_ALL = """
import sys
from pathlib import Path

import numpy as np

from runtimes.networks import artifact, random_weights, tiny_spec
from seresnext.exporters.base import load_exporter
from seresnext.model.architecture import is_buffer
from seresnext.model.saved_model import save_model
from seresnext.runtimes.formats import FORMATS
from seresnext.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from seresnext.weights.convert import convert
from seresnext.zoo.checkpoints import write_zoo_ckpt

out = Path(sys.argv[1])
spec = tiny_spec(max_pool="same")
weights = random_weights(spec)
save_model(out / "model", spec, weights)
for name, to in (("a.ckpt", "mindcv"), ("b", "timm"), ("c.safetensors", "timm")):
    convert(out / "model", out / name, to=to, allow_pooling_change=True)
momentum = {n: w for n, w in weights.items() if not is_buffer(n)}
groups = {"model": weights, "optimizer.momentum": momentum}
saved = save_checkpoint(out, Checkpoint(3, {"model": spec.to_dict()}, groups))
write_zoo_ckpt(out / "zoo.ckpt", load_checkpoint(saved))
for format in FORMATS.values():
    if format.runtime:
        for precision in set(format.precisions) - {"int8"}:
            exporter = load_exporter(format)
            described = artifact(spec, precision=precision)
            path = out / f"{precision}{format.suffix}"
            exporter.write(exporter.build(described, weights), described, path)
"""


@pytest.mark.slow
def test_two_processes_write_the_same_files(tmp_path: Path) -> None:
    """With another seed of Python's hashes, in every format."""
    for package in ("mindspore", "onnx", "openvino"):
        pytest.importorskip(package, reason="one of the formats")
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        subprocess.run([sys.executable, "-c", WRITE_ALL, folder], env=environment, check=True)
        written.append({f.relative_to(folder): f for f in folder.rglob("*") if f.is_file()})
    first, second = written
    assert first.keys() == second.keys()
    suffixes = {".ckpt", ".safetensors", ".json", ".onnx", ".xml", ".bin", ".pt2", ".mindir"}
    assert suffixes <= {name.suffix for name in first}
    assert [n for n in first if first[n].read_bytes() != second[n].read_bytes()] == []


def test_a_ckpt_has_the_networks_order_whatever_order_it_is_given(tmp_path: Path) -> None:
    arch = architecture("seresnext50_32x4d", layers=(1, 1, 1, 1), num_classes=3)
    weights = {n: np.zeros(s, np.float32) for n, s in weight_shapes(arch).items()}
    for number, names in enumerate((list(weights), list(reversed(weights)))):
        given = {name: weights[name] for name in names}
        write_ckpt(tmp_path / f"{number}.ckpt", to_entries("mindcv", arch, given))
    assert (tmp_path / "0.ckpt").read_bytes() == (tmp_path / "1.ckpt").read_bytes()
