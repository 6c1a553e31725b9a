"""torch.export programs: the contract, and the format's own rules."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from runtimes.contract import RuntimeContract
from runtimes.networks import (
    artifact,
    difference,
    engine_logits,
    random_images,
    random_weights,
    tiny_spec,
)
from seresnext.errors import UserError
from seresnext.exporters import torch as torch_export
from seresnext.runtimes.base import create_runtime
from seresnext.runtimes.torch import TorchRuntime

WEIGHTS = "data/weights/model_weights_config.json"


class TestContract(RuntimeContract):
    kind = "torch"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "model.pt2"
    described = artifact(tiny_spec())
    torch_export.write(torch_export.build(described, random_weights(tiny_spec())), described, path)
    return path


def rewritten(path: Path, out: Path, changes: dict[str, bytes], compression: int = 0) -> Path:
    """The archive with some entries replaced, by their name below its root."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name.partition("/")[2], old.read(name)))
    return out


def test_the_program_predicts_as_the_engine_does(path: Path) -> None:
    """The program itself, which `create_runtime` does not run."""
    runtime = TorchRuntime(path, run_program=True)
    images = random_images(9, 32)
    assert difference(runtime.predict(images), engine_logits(tiny_spec())) < 1e-5
    assert difference(runtime.predict(images[:1]), engine_logits(tiny_spec())[:1]) < 1e-5


def test_the_file_needs_no_package_of_ours(path: Path) -> None:
    """Read by PyTorch alone."""
    extra = {"seresnext": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["seresnext"])["spec"]["class_names"][0] == "blue"
    assert program.module()(torch.zeros(3, 3, 32, 32)).shape == (3, 5)


def test_nothing_in_the_file_is_run(path: Path, tmp_path: Path) -> None:
    """A program may name any function, so it is not even parsed."""
    hostile = rewritten(
        path, tmp_path / "m.pt2", {"models/model.json": b"{", "data/sample_inputs/model.pt": b"x"}
    )
    logits = create_runtime(hostile).predict(random_images(9, 32))
    assert difference(logits, engine_logits(tiny_spec())) < 1e-5


def test_pickled_weights_are_refused(path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        config = json.loads(archive.read(f"{root}/{WEIGHTS}"))
    next(iter(config["config"].values()))["use_pickle"] = True
    hostile = rewritten(path, tmp_path / "m.pt2", {WEIGHTS: json.dumps(config).encode()})
    with pytest.raises(UserError, match="pickled weights, which are never read"):
        create_runtime(hostile)


def test_a_compressed_archive_is_refused(path: Path, tmp_path: Path) -> None:
    """Stored entries are no larger than the file; compressed ones could fill the memory."""
    with pytest.raises(UserError, match=r"is compressed.*refused"):
        create_runtime(rewritten(path, tmp_path / "m.pt2", {}, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    "config",
    [b"{", b"[]", b'{"config": {}}', b'{"config": {"layers.conv1.weight": {}}}'],
)
def test_a_corrupt_list_of_weights_is_refused(path: Path, tmp_path: Path, config: bytes) -> None:
    with pytest.raises(UserError, match="is damaged or no archive"):
        create_runtime(rewritten(path, tmp_path / "m.pt2", {WEIGHTS: config}))


def test_weights_of_the_wrong_size_are_refused(path: Path, tmp_path: Path) -> None:
    hostile = rewritten(path, tmp_path / "m.pt2", {"data/weights/weight_0": b"1234" * 5})
    with pytest.raises(UserError, match="is damaged or no archive"):
        create_runtime(hostile)
