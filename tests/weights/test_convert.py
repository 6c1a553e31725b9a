"""Conversion: the converted network is the same network, and every entry is accounted for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.networks import random_batch
from seresnext.config import EngineConfig, OptimConfig, recipe
from seresnext.engines.base import create_engine
from seresnext.engines.torch.network import load_network
from seresnext.errors import UserError
from seresnext.model.architecture import Architecture, architecture, weight_shapes
from seresnext.model.init import init_weights
from seresnext.model.saved_model import load_model, save_model
from seresnext.model.spec import InputSpec, ModelSpec
from seresnext.training.checkpoint import Checkpoint
from seresnext.weights.ckpt import list_ckpt, write_ckpt
from seresnext.weights.convert import convert
from seresnext.weights.layouts import to_entries, with_biases
from seresnext.weights.load import load_weights
from seresnext.zoo.checkpoints import write_zoo_ckpt

SMALL = architecture("seresnext50_32x4d", layers=(1, 1, 1, 1), num_classes=3)
SMALL_SAME = dataclasses.replace(SMALL, max_pool="same")


def random_weights(arch: Architecture, zero_biases: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    weights = init_weights(dataclasses.replace(arch, zero_init_last_bn=False), 0)
    for name, value in weights.items():
        if value.ndim == 1:
            weights[name] = value + rng.uniform(0, 0.5, value.shape).astype(np.float32)
        if zero_biases and name.endswith((".se.fc2.bias", "fc.bias")):
            weights[name] = np.zeros_like(value)
    return weights


def torch_logits(arch: Architecture, weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return load_network(arch, weights)(torch.from_numpy(x)).numpy()


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Relative Frobenius norm."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, 224, 224), dtype=np.float32)


# the same outputs ------------------------------------------------------------------------------


def check_zoo_network(net: object, layout: str, entries: int, x: np.ndarray, folder: Path) -> None:
    """Save with MindSpore, convert, and hold the logits against the MindSpore network's."""
    import mindspore

    from weights.original_network import logits, randomize

    randomize(net, seed=2)  # type: ignore[arg-type]
    expected = logits(net, x)  # type: ignore[arg-type]
    mindspore.save_checkpoint(net, str(folder / "theirs.ckpt"))

    report = convert(folder / "theirs.ckpt", folder / "ours")
    assert (report.layout, report.read, report.used) == (layout, entries, entries)
    spec, weights = load_model(folder / "ours")
    arch = spec.architecture
    full = architecture("seresnext50_32x4d", num_classes=1000, max_pool="same")
    assert arch == with_biases(layout, full)  # type: ignore[arg-type]
    assert difference(torch_logits(arch, weights, x), expected) < 2e-5
    torch_padding = dataclasses.replace(arch, max_pool="torch")
    assert difference(torch_logits(torch_padding, weights, x), expected) > 0.05
    weights["layer2.1.conv2.weight"][40, 2, 1, 1] += 1.0
    assert difference(torch_logits(arch, weights, x), expected) > 1e-4

    back = convert(folder / "ours", folder / "back.ckpt", to=layout)  # type: ignore[arg-type]
    assert back.written == entries
    theirs, ours = (
        {name: stored.read() for name, stored in list_ckpt(folder / file).items()}
        for file in ("theirs.ckpt", "back.ckpt")
    )
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)
    assert len(mindspore.load_checkpoint(str(folder / "back.ckpt"), net, strict_load=True))


def test_the_original_zoos_network(image: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("mindspore", reason="the reference is a MindSpore network")
    from weights.original_network import OriginalNetwork

    net = OriginalNetwork((3, 4, 6, 3), 1000)
    assert sum(p.size for p in net.trainable_params()) == 27_543_792
    check_zoo_network(net, "original", 810, image, tmp_path)


def test_weights_trained_here_open_in_the_originals_network(
    image: np.ndarray, tmp_path: Path
) -> None:
    """What the recipe `zoo` trains, in the zoo's own .ckpt, gives its network the same logits."""
    mindspore = pytest.importorskip("mindspore", reason="the reference is a MindSpore network")
    from weights.original_network import OriginalNetwork, logits

    model = recipe("zoo").replace(model={"layers": (1, 1, 1, 1)}).model
    spec = ModelSpec(model.architecture(5), tuple("abcde"))
    settings = EngineConfig(device="cpu")
    engine = create_engine(spec, random_weights(spec.architecture), settings, OptimConfig())
    engine.train_step(random_batch(4), 0.1)
    state = engine.state_dict()
    write_zoo_ckpt(
        tmp_path / "a.ckpt", Checkpoint(1, {"model": spec.to_dict()}, {"model": state.model})
    )
    net = OriginalNetwork((1, 1, 1, 1), 5)
    theirs = mindspore.load_checkpoint(str(tmp_path / "a.ckpt"))
    assert mindspore.load_param_into_net(net, theirs, strict_load=True) == ([], [])
    ours = torch_logits(spec.architecture, state.model, image)
    assert difference(ours, logits(net, image)) < 2e-5


def test_mindcvs_network(image: np.ndarray, tmp_path: Path) -> None:
    mindcv = pytest.importorskip("mindcv", reason="the reference is mindcv's network")
    check_zoo_network(mindcv.create_model("seresnext50_32x4d"), "mindcv", 331, image, tmp_path)


def test_timms_network(image: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("engines.timm_reference", reason="needs timm")
    from engines.timm_reference import canonical, timm_model

    small = np.ascontiguousarray(image[:, :, :64, :64])
    model = timm_model(SMALL).eval()
    rng = np.random.default_rng(3)
    with torch.inference_mode():
        for tensor in model.state_dict().values():
            if tensor.ndim == 1:  # BN and biases, else at their defaults
                tensor += torch.from_numpy(rng.uniform(0, 0.5, tensor.shape).astype(np.float32))
        expected = model(torch.from_numpy(small)).numpy()
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    count = len(model.state_dict())
    counters = sum(name.endswith("num_batches_tracked") for name in model.state_dict())

    report = convert(tmp_path / "theirs.pth", tmp_path / "ours")
    assert (report.layout, report.read, report.used) == ("timm", count, count - counters)
    assert {k: len(v) for k, v in report.dropped.items()} == {"BN batch counters": counters}
    spec, weights = load_model(tmp_path / "ours")
    assert spec.architecture == SMALL
    assert difference(torch_logits(SMALL, weights, small), expected) < 1e-6
    weights["fc.bias"][1] += 0.01
    assert difference(torch_logits(SMALL, weights, small), expected) > 1e-5

    convert(tmp_path / "ours", tmp_path / "back.safetensors")
    state = load_weights(tmp_path / "back.safetensors").weights
    assert all(np.array_equal(state[k], v) for k, v in canonical(model.state_dict()).items())


def test_timm_opens_the_folder_written_for_it(tmp_path: Path) -> None:
    pytest.importorskip("engines.timm_reference", reason="needs timm")
    from engines.timm_reference import canonical, timm

    arch = architecture("seresnext50_32x4d", num_classes=3)
    weights = random_weights(arch)
    write_ckpt(tmp_path / "mindcv.ckpt", to_entries("mindcv", arch, weights))
    report = convert(
        tmp_path / "mindcv.ckpt",
        tmp_path / "timm",
        to="timm",
        class_names=("ant", "bee", "cat"),
        image_size=64,
        allow_pooling_change=True,
    )
    assert any("outputs are not the same" in note for note in report.notes)
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    assert all(np.array_equal(weights[k], v) for k, v in canonical(model.state_dict()).items())
    assert tuple(model.pretrained_cfg["input_size"]) == (3, 64, 64)
    spec = load_weights(tmp_path / "timm").spec
    assert spec is not None
    assert spec.class_names == ("ant", "bee", "cat")
    assert spec.architecture.max_pool == "torch"


# what is refused -------------------------------------------------------------------------------


def save_ours(folder: Path, arch: Architecture, zero_biases: bool = False) -> Path:
    spec = ModelSpec(arch, tuple("abc"), InputSpec(image_size=64))
    save_model(folder, spec, random_weights(arch, zero_biases))
    return folder


@pytest.mark.parametrize(
    ("arch", "out", "to"),
    [
        (SMALL_SAME, "timm", "timm"),
        (SMALL_SAME, "timm.safetensors", None),
        (SMALL, "a.ckpt", "mindcv"),
        (SMALL, "a.safetensors", "original"),
    ],
)
def test_a_pooling_the_other_does_not_have_is_refused_unless_asked_for(
    arch: Architecture, out: str, to: str | None, tmp_path: Path
) -> None:
    source = save_ours(tmp_path / "ours", arch, zero_biases=True)
    with pytest.raises(UserError, match="--allow-pooling-change"):
        convert(source, tmp_path / out, to=to)  # type: ignore[arg-type]
    assert not (tmp_path / out).exists()
    convert(source, tmp_path / out, to=to, allow_pooling_change=True)  # type: ignore[arg-type]
    assert (tmp_path / out).exists()


def test_biases_without_a_place_in_the_original_are_refused(tmp_path: Path) -> None:
    source = save_ours(tmp_path / "ours", SMALL_SAME)
    with pytest.raises(UserError, match=r"5 biases that are not zero: layer1\.0\.se\.fc2\.bias"):
        convert(source, tmp_path / "a.ckpt", to="original")
    assert not (tmp_path / "a.ckpt").exists()


@pytest.mark.parametrize(
    ("out", "to", "message"),
    [
        ("a.ckpt", None, "--to original or --to mindcv"),
        ("a.ckpt", "timm", "expected a folder or a .safetensors file"),
        ("a.pth", "timm", "expected a folder or a .safetensors file"),
        ("folder", "mindcv", "expected a .safetensors file or a .ckpt file"),
        ("a.safetensors", "seresnext", "expected a folder"),
        ("folder", "torchvision", "expected one of seresnext, timm"),
        ("ours/config.json", None, "is a file; expected a folder"),
    ],
)
def test_a_result_that_cannot_be_written_is_refused(
    out: str, to: str | None, message: str, tmp_path: Path
) -> None:
    save_ours(tmp_path / "ours", SMALL)
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "ours", tmp_path / out, to=to)  # type: ignore[arg-type]


def test_class_names_must_fit(tmp_path: Path) -> None:
    save_ours(tmp_path / "ours", SMALL)
    for names in (("a", "b"), ("a", "b", "b")):
        with pytest.raises(UserError, match="2 different class names were given"):
            convert(tmp_path / "ours", tmp_path / "out", class_names=names)
    with pytest.raises(UserError, match="32 or more, got 31"):
        convert(tmp_path / "ours", tmp_path / "out", image_size=31)


def test_a_full_disk_leaves_no_half_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    save_ours(tmp_path / "ours", SMALL)
    monkeypatch.setattr("os.replace", full)
    for out in ("a.safetensors", "a.ckpt"):
        with pytest.raises(UserError, match=f"cannot write .*{out}.*No space left"):
            convert(
                tmp_path / "ours",
                tmp_path / out,
                to="mindcv",
                allow_pooling_change=True,
            )
    assert [p.name for p in tmp_path.iterdir()] == ["ours"]


# the report ------------------------------------------------------------------------------------


@pytest.fixture
def training_checkpoint(tmp_path: Path) -> Path:
    """An original training checkpoint: weights, momentum, scalars."""
    arch = with_biases("original", SMALL_SAME)
    weights = random_weights(arch)
    momentum = {n: w + 1 for n, w in weights.items() if "running" not in n}
    entries = to_entries("original", arch, weights, momentum)
    scalars = {"learning_rate": np.float32(0.4), "momentum": np.float32(0.9)}
    entries |= {n: np.asarray(v) for n, v in scalars.items()}
    entries |= {"global_step": np.array([7], np.int32), "epoch_num": np.array(1)}
    write_ckpt(tmp_path / "train.ckpt", entries)
    return tmp_path / "train.ckpt"


def test_the_report_accounts_for_every_entry(training_checkpoint: Path, tmp_path: Path) -> None:
    report = convert(training_checkpoint, tmp_path / "ours")
    weights = 5 + 4 * (49 + 5) + 1  # stem, blocks with a shortcut, classifier
    moments = weights - 2 * (1 + 4 * 4)  # running mean and variance of every BN
    assert report.read == weights + moments + 4
    assert report.used == weights
    assert {k: len(v) for k, v in report.dropped.items()} == {
        "training state of MindSpore": 4,
        "momentum": moments,
    }
    assert report.written == len(weight_shapes(with_biases("original", SMALL)))
    lines = str(report).splitlines()
    assert lines[0].endswith("original layout, seresnext50_32x4d, 3 classes")
    assert lines[1] == f"  {report.read} entries: {weights} used, {moments + 4} dropped"
    assert "  dropped 4: training state of MindSpore (learning_rate, momentum, " in lines[2]
    assert any("no class names came with the weights" in line for line in lines)
    assert lines[-1] == f"wrote {tmp_path / 'ours'}: seresnext layout, {report.written} entries"


def test_momentum_goes_into_another_ckpt_when_asked(
    training_checkpoint: Path, tmp_path: Path
) -> None:
    before = load_weights(training_checkpoint)
    report = convert(training_checkpoint, tmp_path / "mindcv.ckpt", to="mindcv", keep_momentum=True)
    assert "momentum" not in report.dropped
    after = load_weights(tmp_path / "mindcv.ckpt")
    assert after.layout == "mindcv"
    assert len(after.momentum) == len([n for n in weight_shapes(SMALL) if "running" not in n])
    assert all(np.array_equal(after.momentum[n], m) for n, m in before.momentum.items())
    with pytest.raises(UserError, match=r"a \.ckpt alone can hold it"):
        convert(training_checkpoint, tmp_path / "ours", keep_momentum=True)
