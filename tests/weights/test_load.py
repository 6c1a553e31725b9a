"""Weights files and folders of any producer; starting from pretrained weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from seresnext.errors import UserError
from seresnext.model.architecture import Architecture, architecture, weight_shapes
from seresnext.model.init import init_weights
from seresnext.model.saved_model import save_model
from seresnext.model.spec import InputSpec, ModelSpec
from seresnext.training.checkpoint import Checkpoint, save_checkpoint
from seresnext.weights.ckpt import write_ckpt
from seresnext.weights.layouts import to_entries
from seresnext.weights.load import load_weights, pretrained_weights

SMALL = architecture("seresnext50_32x4d", layers=(1, 1, 1, 1), num_classes=3)
SAME = dataclasses.replace(SMALL, max_pool="same")
WEIGHTS = init_weights(SMALL, 5)
SPEC = ModelSpec(SAME, ("ant", "bee", "cat"), InputSpec(image_size=96, interpolation="bilinear"))


def state_dict(prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + n: torch.from_numpy(a) for n, a in WEIGHTS.items()}


def assert_weights(weights: dict[str, np.ndarray]) -> None:
    assert list(weights) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        assert weights[name].dtype == np.float32
        assert np.array_equal(weights[name], array), name


# files -----------------------------------------------------------------------------------------


def test_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    found = load_weights(tmp_path / "a.safetensors")
    assert (found.layout, found.architecture, found.spec) == ("timm", SMALL, None)
    assert found.entries == found.used == len(WEIGHTS)
    assert_weights(found.weights)


def test_the_format_is_detected_from_the_content(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.ckpt")
    torch.save(state_dict(), tmp_path / "b.safetensors")
    write_ckpt(tmp_path / "c.pth", to_entries("mindcv", SAME, WEIGHTS))
    for name, layout in (("a.ckpt", "timm"), ("b.safetensors", "timm"), ("c.pth", "mindcv")):
        found = load_weights(tmp_path / name)
        assert found.layout == layout
        assert_weights(found.weights)


def test_mindcvs_safetensors(tmp_path: Path) -> None:
    save_file(to_entries("mindcv", SAME, WEIGHTS), tmp_path / "a.safetensors", {"format": "ms"})
    found = load_weights(tmp_path / "a.safetensors")
    assert (found.layout, found.architecture) == ("mindcv", SAME)
    assert_weights(found.weights)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    state = {n: t.to(dtype) for n, t in state_dict().items()}
    path = tmp_path / f"a.{kind}"
    torch.save(state, path) if kind == "pth" else save_torch_file(state, path)
    found = load_weights(path).weights
    for name, tensor in state.items():
        assert np.array_equal(found[name], tensor.float().numpy()), name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a safetensors, PyTorch or MindSpore weights file"),
        (b"<html>not found</html>", "is not a safetensors, PyTorch or MindSpore"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer: run `git lfs pull`"),
        (b"\x10\0\0\0\0\0\0\0{" + b"x" * 40, "is not a whole safetensors file"),
        (b"\x0a\x80", "is not a whole MindSpore checkpoint"),
        (b"PK\x03\x04" + b"x" * 40, "is not a weights-only PyTorch file"),
        (b"\x80\x02}q\x00.", "is not a weights-only PyTorch file"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_weights(tmp_path / "file")


def test_a_truncated_safetensors_is_refused(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[:-1])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_weights(tmp_path / "a.safetensors")


def test_a_type_that_is_not_read_is_refused(tmp_path: Path) -> None:
    tensor = torch.zeros(3).to(torch.float8_e4m3fn)
    save_torch_file({"x": tensor}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="entry 'x' has type F8_E4M3"):
        load_weights(tmp_path / "a.safetensors")


# .pth ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bare_state_dict(zipped: bool, tmp_path: Path) -> None:
    state = state_dict() | {"bn1.num_batches_tracked": torch.tensor(9)}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = load_weights(tmp_path / "a.pth")
    assert found.dropped == {"BN batch counters": ["bn1.num_batches_tracked"]}
    assert found.entries == found.used + 1
    assert_weights(found.weights)


def test_a_training_checkpoint_of_timm(tmp_path: Path) -> None:
    other = {n: t + 1 for n, t in state_dict().items()}
    content = {
        "epoch": 3,
        "arch": "seresnext50_32x4d",
        "args": argparse.Namespace(lr=0.1, mean=[0.5]),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "state_dict": other,
        "state_dict_ema": state_dict("module."),
    }
    torch.save(content, tmp_path / "a.pth")
    found = load_weights(tmp_path / "a.pth")
    assert_weights(found.weights)
    assert found.notes == [
        "read the weights under 'state_dict_ema'; left out what lies beside: arch, args, epoch, "
        "optimizer, state_dict",
        "took 'module.' off the names",
    ]


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_weights_under_a_key(key: str, tmp_path: Path) -> None:
    torch.save({key: state_dict("module.")}, tmp_path / "a.pth")
    assert_weights(load_weights(tmp_path / "a.pth").weights)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_executed(
    zipped: bool, wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": state_dict(), "x": Malicious()} if wrapped else Malicious()
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"was not loaded: .*nothing in it was executed"):
        load_weights(tmp_path / "a.pth")
    assert not (tmp_path / "executed").exists()


def test_a_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"Expected torch\.save\(model\.state_dict\(\)"):
        load_weights(tmp_path / "a.pth")


def test_a_compressed_bomb_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1 << 20)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as stored,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in stored.namelist():
            bomb.writestr(member, stored.read(member))
    assert (tmp_path / "b.pth").stat().st_size < 1 << 14
    with pytest.raises(UserError, match="is compressed"):
        load_weights(tmp_path / "b.pth")


def test_a_view_larger_than_its_file_is_not_read(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1).expand(1 << 40)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="holds no SE-ResNeXt"):
        load_weights(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds list, expected a state dict"),
        ({}, "holds dict, expected a state dict"),
        ({"x": torch.zeros(1).to_sparse()}, "entry 'x' is sparse"),
        ({"x": torch.zeros(1)}, "holds no SE-ResNeXt in a known layout"),
    ],
)
def test_no_weights_in_it(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=message):
        load_weights(tmp_path / "a.pth")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """(a place to write to, a small file of each kind)."""
    folder = tmp_path_factory.mktemp("fuzz")
    arrays = {"layer1.0.se.fc1.weight": np.ones((2, 2), np.float32), "b": np.arange(3)}
    state = {n: torch.from_numpy(a) for n, a in arrays.items()}
    torch.save({"state_dict": state}, folder / "a")
    torch.save(state, folder / "b", _use_new_zipfile_serialization=False)
    save_file(arrays, folder / "c", {"seresnext": "{}"})
    return folder / "damaged", [(folder / name).read_bytes() for name in "abc"]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_files_are_refused(whole: tuple[Path, list[bytes]], data: st.DataObject) -> None:
    path, contents = whole
    damaged = bytearray(data.draw(st.sampled_from(contents)))
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with pytest.raises(UserError):  # nothing else, and no network is in any of them
        load_weights(path)


# folders ---------------------------------------------------------------------------------------


def test_our_model_and_run_folders(tmp_path: Path) -> None:
    save_model(tmp_path / "run" / "model", SPEC, WEIGHTS)
    (tmp_path / "run" / "config.json").write_text("{}")
    folder = tmp_path / "run" / "model"
    for path in (tmp_path / "run", folder, folder / "model.safetensors"):
        found = load_weights(path)
        assert (found.layout, found.architecture, found.spec) == ("seresnext", SAME, SPEC)
        assert_weights(found.weights)


def test_our_weights_file_alone_remembers_its_network(tmp_path: Path) -> None:
    save_model(tmp_path / "model", SPEC, WEIGHTS)
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "alone.safetensors")
    found = load_weights(tmp_path / "alone.safetensors")
    assert (found.layout, found.architecture, found.spec) == ("seresnext", SAME, SPEC)


def test_a_training_checkpoint_of_ours(tmp_path: Path) -> None:
    tensors = {"model": {n: a + 1 for n, a in WEIGHTS.items()}, "ema": WEIGHTS}
    folder = save_checkpoint(tmp_path, Checkpoint(3, {"model": SPEC.to_dict()}, tensors))
    assert load_weights(folder / "model.safetensors").architecture == SAME
    found = load_weights(folder)
    assert found.spec == SPEC
    assert_weights(found.weights)


def timm_folder(folder: Path, **config: object) -> Path:
    folder.mkdir()
    save_file(WEIGHTS, folder / "model.safetensors")
    given = {"input_size": [3, 288, 288], "crop_pct": 1.0, "crop_mode": "squash", "mean": [0.5] * 3}
    base = {"architecture": "seresnext50_32x4d", "pretrained_cfg": given}
    (folder / "config.json").write_text(json.dumps(base | config))
    return folder


def test_timms_folder(tmp_path: Path) -> None:
    spec = load_weights(timm_folder(tmp_path / "a", label_names=["x", "y", "z"])).spec
    assert spec is not None
    assert spec.class_names == ("x", "y", "z")
    assert spec.input == InputSpec(288, 1.0, "bicubic", "stretch", (0.5, 0.5, 0.5))
    found = load_weights(timm_folder(tmp_path / "b"))
    assert found.spec is not None
    assert found.spec.class_names == ("0", "1", "2")
    assert "it names no classes; they are numbered" in found.notes
    (tmp_path / "a" / "model.safetensors").unlink()
    torch.save(state_dict(), tmp_path / "a" / "pytorch_model.bin")
    assert_weights(load_weights(tmp_path / "a").weights)


@pytest.mark.parametrize("name", ["seresnextaa101d_32x8d", "resnet50", None])
def test_timms_other_networks_are_refused_by_name(name: str | None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"names the architecture '{name}', which is not of this"):
        load_weights(timm_folder(tmp_path / "a", architecture=name))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json is not valid JSON"),
        ("config.json", "[" * 100_000, "config.json is not valid JSON"),
        ("config.json", '{"seresnext": {"architecture": 5}}', "does not describe a model"),
        (
            "config.json",
            '{"seresnext": {"input": {}, "architecture": {"layers": [1, 1, 1, 4000000000]}}}',
            "expected four counts of 1 to 128",
        ),
        (
            "config.json",
            '{"architecture": "seresnext50_32x4d", "pretrained_cfg": {"mean": 5}}',
            "pretrained_cfg is not as timm writes it",
        ),
    ],
)
def test_damaged_descriptions_are_refused(
    file: str, content: str, message: str, tmp_path: Path
) -> None:
    timm_folder(tmp_path / "a")
    (tmp_path / "a" / file).write_text(content)
    with pytest.raises(UserError, match=message):
        load_weights(tmp_path / "a")


def test_a_folder_without_a_model_and_a_missing_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished model; expected a run folder \\(with"):
        load_weights(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        load_weights(tmp_path / "none")


# starting from pretrained weights --------------------------------------------------------------


@pytest.fixture
def timm_file(tmp_path: Path) -> Path:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_pretrained_weights_are_taken_whole(timm_file: Path) -> None:
    arch = dataclasses.replace(SMALL, drop_path=0.1, dropout=0.2, zero_init_last_bn=False)
    weights, notes = pretrained_weights(timm_file, arch, seed=1)
    assert_weights(weights)
    assert notes == [f"starting from {timm_file} (timm layout, seresnext50_32x4d)"]


def test_another_class_count_gets_a_new_classifier(timm_file: Path) -> None:
    arch = dataclasses.replace(SMALL, num_classes=5)
    weights, notes = pretrained_weights(timm_file, arch, seed=1)
    assert {n: w.shape for n, w in weights.items()} == weight_shapes(arch)
    fresh = init_weights(arch, 1)
    for name, array in weights.items():
        expected = fresh if name.startswith("fc.") else WEIGHTS
        assert np.array_equal(array, expected[name]), name
    assert notes[-1] == f"the classifier starts anew: 5 classes here, 3 in {timm_file}"


@pytest.mark.parametrize(
    ("ours", "theirs", "rows"),
    [
        (("d", "b", "a", "e"), ("a", "b", "c"), {1: 1, 2: 0}),
        (("c", "a", "b"), ("a", "b", "c"), {0: 2, 1: 0, 2: 1}),  # another order
        (("a", "b"), ("a", "b", "c"), {0: 0, 1: 1}),
        (("a", "b", "x"), ("a", "b", "c"), {0: 0, 1: 1}),
        (("a", "b", "c"), ("a", "b", "c"), None),
        (("x", "y", "z"), ("a", "b", "c"), None),  # the same classes under other names, perhaps
        (("x", "y"), ("a", "b", "c"), {}),
        (("2", "0", "1", "3"), ("0", "1", "2"), {}),  # numbers that convert gave: no names
    ],
)
def test_classes_that_both_have_keep_their_rows(
    ours: tuple[str, ...], theirs: tuple[str, ...], rows: dict[int, int] | None, tmp_path: Path
) -> None:
    """`rows`: class here -> class of the weights; None: the classifier is taken whole."""
    spec = ModelSpec(SMALL, theirs, InputSpec(64))
    save_model(tmp_path / "model", spec, WEIGHTS)
    arch = dataclasses.replace(SMALL, num_classes=len(ours))
    weights, notes = pretrained_weights(tmp_path / "model", arch, 1, ours)
    fresh = init_weights(arch, 1)
    for name in ("fc.weight", "fc.bias"):
        expected = WEIGHTS[name].copy() if rows is None else fresh[name].copy()
        for here, there in (rows or {}).items():
            expected[here] = WEIGHTS[name][there]
        assert np.array_equal(weights[name], expected), name
    assert np.array_equal(weights["conv1.weight"], WEIGHTS["conv1.weight"])
    said = f"keeps {len(rows)} classes" if rows else "starts anew"
    assert (said in notes[-1]) == (rows is not None)


def test_another_network_is_refused_with_the_flags_that_fit(timm_file: Path) -> None:
    for arch, message in (
        (dataclasses.replace(SMALL, layers=(1, 1, 2, 1)), r"add --model seresnext"),
        (dataclasses.replace(SMALL, stem="deep"), r"add --model seresnext"),
        (dataclasses.replace(SMALL, cardinality=16), r"--model\.cardinality \d"),
    ):
        with pytest.raises(UserError, match=message):
            pretrained_weights(timm_file, arch, seed=1)


def test_another_max_pool_is_refused_with_the_flag_that_fixes_it(
    timm_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"add --model\.max-pool torch"):
        pretrained_weights(timm_file, SAME, seed=1)
    save_model(tmp_path / "ours", SPEC, WEIGHTS)
    write_ckpt(tmp_path / "mindcv.ckpt", to_entries("mindcv", SAME, WEIGHTS))
    for path in (tmp_path / "ours", tmp_path / "mindcv.ckpt"):
        with pytest.raises(UserError, match=r"add --model\.max-pool same"):
            pretrained_weights(path, SMALL, seed=1)
        assert_weights(pretrained_weights(path, SAME, seed=1)[0])


def test_cardinality_that_keeps_every_name_is_seen(tmp_path: Path) -> None:
    arch: Architecture = dataclasses.replace(SMALL, cardinality=64, base_width=2)
    save_file(init_weights(arch, 0), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"another network.* --model.base-width 2"):
        pretrained_weights(tmp_path / "a.safetensors", SMALL, seed=0)
