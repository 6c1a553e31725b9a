"""Layouts: names, detection of the architecture, and every entry accounted for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from seresnext.errors import UserError
from seresnext.model.architecture import (
    MODEL_NAMES,
    Architecture,
    architecture,
    is_buffer,
    weight_shapes,
)
from seresnext.weights.detect import detect_architecture
from seresnext.weights.layouts import MAX_POOL, Layout, layout_names, to_entries, with_biases
from seresnext.weights.translate import from_entries

LAYOUTS: list[Layout] = ["timm", "mindcv", "original"]
SMALL = architecture("seresnext50_32x4d", layers=(1, 2, 1, 1), num_classes=3)


def numbered(arch: Architecture) -> dict[str, np.ndarray]:
    """Weights of which no two numbers are equal within an array, nor two arrays."""
    weights = {}
    every = list(weight_shapes(with_biases("timm", arch)))
    for name, shape in weight_shapes(arch).items():
        number = every.index(name)
        size = int(np.prod(shape))
        weights[name] = (np.arange(size, dtype=np.float32) + number / 1024).reshape(shape)
    return weights


def entries_of(layout: Layout, arch: Architecture = SMALL) -> dict[str, np.ndarray]:
    arch = with_biases(layout, arch)
    return to_entries(layout, arch, numbered(arch))


def names_of(layout: Layout, name: str) -> list[str]:
    arch = with_biases(layout, architecture(name))
    return [n for names in layout_names(layout, arch).values() for n in names]


# names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "count"), [("original", 810), ("mindcv", 331), ("timm", 331)])
def test_entry_counts(layout: Layout, count: int) -> None:
    names = names_of(layout, "seresnext50_32x4d")
    assert len(names) == len(set(names)) == count


def test_the_original_names() -> None:
    names = layout_names("original", with_biases("original", architecture("seresnext50_32x4d")))
    assert names["conv1.weight"] == ["layer0.0.weight"]
    assert names["bn1.running_var"] == ["layer0.1.moving_variance"]
    assert names["layer3.5.conv2.weight"] == [f"layer3.5.conv2.convs.{i}.weight" for i in range(32)]
    assert names["layer3.5.bn2.weight"] == ["layer3.5.bn2.gamma"]
    assert names["layer2.0.se.fc1.bias"] == ["layer2.0.se_module.fc1.bias"]
    assert names["layer2.0.se.fc2.weight"] == ["layer2.0.se_module.fc2.weight"]
    assert "layer2.0.se.fc2.bias" not in names
    assert names["layer4.0.downsample.0.weight"] == ["layer4.0.downsample.0.weight"]
    assert names["layer4.0.downsample.1.bias"] == ["layer4.0.downsample.1.beta"]
    assert names["fc.weight"] == ["last_linear.weight"]
    assert "fc.bias" not in names


@pytest.mark.parametrize("name", ["seresnext26_32x4d", "seresnext50_32x4d"])
def test_mindcvs_names_and_shapes_are_mindcvs(name: str) -> None:
    mindcv = pytest.importorskip("mindcv", reason="the reference is mindcv's network")
    arch = architecture(name, num_classes=3)
    shapes = {p.name: p.shape for p in mindcv.create_model(name, num_classes=3).get_parameters()}
    ours = to_entries("mindcv", arch, numbered(arch))
    assert {n: a.shape for n, a in ours.items()} == shapes


# there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_there_and_back(layout: Layout, name: str) -> None:
    arch = with_biases(layout, architecture(name, num_classes=3, max_pool=MAX_POOL[layout]))
    if layout != "timm" and arch.stem == "deep":
        with pytest.raises(UserError, match=f"the {layout} layout has no deep stem"):
            layout_names(layout, arch)
        return
    weights = numbered(arch)
    entries = to_entries(layout, arch, weights)
    back = from_entries(entries, Path("file"))
    assert back.layout == layout
    assert back.architecture == arch
    assert back.used == len(entries)
    assert list(back.weights) == list(weights)
    for key, value in weights.items():
        assert back.weights[key].dtype == np.float32
        assert np.array_equal(back.weights[key], value), key


def test_a_grouped_weight_is_cut_along_its_groups() -> None:
    weight = numbered(SMALL)["layer2.1.conv2.weight"]
    parts = entries_of("original")
    for group in (0, 1, 31):
        part = parts[f"layer2.1.conv2.convs.{group}.weight"]
        assert part.shape == (8, 8, 3, 3)
        assert np.array_equal(part, weight[8 * group : 8 * group + 8])


@pytest.mark.parametrize("layout", ["mindcv", "original"])
def test_se_weights_may_be_kernels_or_matrices(layout: Layout) -> None:
    entries = entries_of(layout)
    se = [n for n in entries if "se_module" in n and n.endswith(".weight")]
    for name in se:
        array = entries[name]
        entries[name] = array.reshape(array.shape[:2] + (1, 1) * (array.ndim == 2))
    assert len(se) == 2 * sum(SMALL.layers)
    back = from_entries(entries, Path("file")).weights
    assert all(np.array_equal(back[n], w) for n, w in numbered(with_biases(layout, SMALL)).items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_biases_are_detected_one_by_one(layout: Layout) -> None:
    for classifier, se in ((True, True), (True, False), (False, True), (False, False)):
        arch = dataclasses.replace(SMALL, classifier_bias=classifier, se_bias=se)
        found = from_entries(to_entries(layout, arch, numbered(arch)), Path("file")).architecture
        assert (found.classifier_bias, found.se_bias) == (classifier, se)


def test_an_original_with_the_biases_it_lacks_is_read() -> None:
    weights = numbered(SMALL)
    entries = to_entries("original", SMALL, weights)
    assert len(entries) == len(entries_of("original")) + sum(SMALL.layers) + 1
    back = from_entries(entries, Path("file"))
    assert back.layout == "original"
    assert all(np.array_equal(back.weights[n], w) for n, w in weights.items())
    del entries["layer2.1.se_module.fc2.bias"]
    with pytest.raises(UserError, match=r"missing layer2\.1\.se_module\.fc2\.bias"):
        from_entries(entries, Path("file"))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_float32(dtype: type) -> None:
    entries = {n: (a / a.size).astype(dtype) for n, a in entries_of("mindcv").items()}
    for name, array in from_entries(entries, Path("file")).weights.items():
        assert array.dtype == np.float32, name
        assert array.flags.writeable, name


# the architecture ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"layers": (1, 1, 2, 1)},
        {"cardinality": 8, "base_width": 16},
        {"cardinality": 1, "base_width": 64},
        {"se_reduction": 8},
        {"se_reduction": 24},
        {"num_classes": 1},
        {"layers": (3, 4, 23, 3), "base_width": 8, "stem": "deep", "downsample": "avg"},
        {"stem": "deep"},
    ],
)
def test_the_architecture_is_detected_from_shapes(options: dict[str, object]) -> None:
    arch = architecture("seresnext50_32x4d", **options)
    found = detect_architecture("timm", weight_shapes(arch), Path("file"))
    assert weight_shapes(found) == weight_shapes(arch)
    fields = ("layers", "cardinality", "base_width", "stem", "downsample", "max_pool")
    assert [getattr(found, f) for f in fields] == [getattr(arch, f) for f in fields]


def test_a_changed_network_gets_the_nearest_name() -> None:
    arch = architecture("seresnext101_32x4d", base_width=8, num_classes=3)
    assert detect_architecture("timm", weight_shapes(arch), Path("file")) == arch


# what does not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_misfit_is_listed(layout: Layout) -> None:
    entries = entries_of(layout)
    names = layout_names(layout, SMALL)
    missing = names["layer2.1.conv2.weight"][-1]
    reshaped = names["layer3.0.bn1.weight"][0]
    del entries[missing]
    entries[reshaped] = entries[reshaped][:-1]
    entries["extra.weight"] = np.zeros(3, np.float32)
    entries["fc_norm.num_batches_tracked"] = np.zeros((), np.int64)
    with pytest.raises(UserError) as error:
        from_entries(entries, Path("theirs.ckpt"))
    message = str(error.value)
    assert message.startswith(f"the entries of theirs.ckpt ({layout} layout, read as seresnext")
    assert f"missing {missing}" in message
    assert f"{reshaped} has shape (511,), expected (512,)" in message
    assert "unknown extra.weight" in message
    assert "unknown fc_norm.num_batches_tracked" in message


def test_a_long_list_is_cut() -> None:
    entries = {n: a for n, a in entries_of("mindcv").items() if not n.startswith("layer4.0.bn")}
    with pytest.raises(UserError, match=r"; and 4 more$"):
        from_entries(entries, Path("file"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(64, np.int32), "has type int32, expected floating-point numbers"),
        (np.full(64, np.nan, np.float32), "holds numbers that are not finite"),
        (np.full(64, 1e39), "holds numbers that are not finite"),
        (np.zeros(64, np.complex64), "has type complex64"),
    ],
)
def test_numbers_that_are_no_weights(value: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=f"layer0.1.gamma {message}"):
        from_entries(entries_of("mindcv") | {"layer0.1.gamma": value}, Path("file"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv2.weight": None}, "layer1.0.conv2.weight is missing"),
        ({"layer1.0.conv1.weight": np.zeros(3)}, r"has shape \(3,\), expected 4 dimensions"),
        ({"classifier.weight": np.float32(1)}, r"classifier.weight has shape \(\)"),
        ({"classifier.weight": np.zeros((0, 9))}, r"classifier.weight has shape \(0, 9\)"),
        (
            {"layer1.0.se_module.conv_reduce.bias": np.zeros(24)},
            r"have \[24, 32, 64, 128\] channels",
        ),
    ],
)
def test_an_architecture_that_cannot_be_detected(
    change: dict[str, np.ndarray | None], message: str
) -> None:
    entries = {n: a for n, a in (entries_of("mindcv") | change).items() if a is not None}
    with pytest.raises(UserError, match=message):
        from_entries(entries, Path("file"))


def test_a_stage_without_blocks_and_another_network_are_refused() -> None:
    entries = {n: a for n, a in entries_of("timm").items() if not n.startswith("layer3")}
    with pytest.raises(UserError, match="no entries of layer3"):
        from_entries(entries, Path("file"))
    with pytest.raises(UserError, match=r"holds no SE-ResNeXt .*; it begins with features\.0"):
        from_entries({"features.0.weight": np.zeros(3)}, Path("file"))


# training checkpoints and wrappers -------------------------------------------------------------


def test_momentum_is_translated_like_its_weights() -> None:
    weights = numbered(SMALL)
    momentum = {n: w * 2 for n, w in weights.items() if not is_buffer(n)}
    entries = to_entries("original", SMALL, weights, momentum)
    back = from_entries(entries, Path("file"))
    assert list(back.momentum) == list(momentum)
    assert all(np.array_equal(back.momentum[n], m) for n, m in momentum.items())
    assert back.used == len(entries)
    assert sorted(back.momentum_entries) == sorted(n for n in entries if n.startswith("moments."))
    del entries["moments.layer0.0.weight"]
    some = from_entries(entries, Path("file"))  # layer0 was frozen
    assert not some.momentum
    assert list(some.dropped) == ["momentum of some parameters only"]
    assert some.used + len(some.dropped["momentum of some parameters only"]) == len(entries)
    entries["moments.layer0.1.moving_mean"] = entries["layer0.1.moving_mean"]
    with pytest.raises(UserError, match=r"unknown moments\.layer0\.1\.moving_mean"):
        from_entries(entries, Path("file"))


def test_what_a_real_training_step_saves_is_known(tmp_path: object) -> None:
    mindcv = pytest.importorskip("mindcv", reason="the reference is its training step")
    from mindcv.utils.train_step import TrainStep
    from mindspore import nn

    net = mindcv.create_model("seresnext26_32x4d", num_classes=3)
    loss = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    rates = nn.cosine_decay_lr(0.0, 0.1, total_step=10, step_per_epoch=5, decay_epoch=2)
    optimizer = nn.Momentum(net.trainable_params(), rates, 0.9, loss_scale=1024)
    scale = nn.DynamicLossScaleUpdateCell(65536, 2, 2000)
    step = TrainStep(loss, optimizer, scale, ema=True)
    entries = {p.name: p.asnumpy() for p in step.get_parameters()}
    found = from_entries(entries, Path("file"))
    assert found.architecture.name == "seresnext26_32x4d"
    trained = sum(not is_buffer(n) for n in found.weights)
    assert len(found.momentum) == trained
    assert {reason: len(names) for reason, names in found.dropped.items()} == {
        "training state of MindSpore": len(entries) - 2 * len(found.weights) - trained,
        "averaged copies of the weights": len(found.weights),
    }
    assert len(entries) == found.used + sum(map(len, found.dropped.values()))


@pytest.mark.parametrize("prefix", ["module.", "network.", "module._orig_mod."])
def test_a_wrappers_prefix_is_taken_off(prefix: str) -> None:
    entries = {prefix + n: a for n, a in entries_of("mindcv").items()}
    entries |= {
        f"moments.{prefix}{n}": a for n, a in entries_of("mindcv").items() if "moving" not in n
    }
    entries["global_step"] = np.array([3])
    back = from_entries(entries, Path("file"))
    assert back.notes == [f"took {prefix!r} off the names"]
    assert np.array_equal(back.weights["fc.weight"], numbered(SMALL)["fc.weight"])
    assert len(back.momentum) == sum(not is_buffer(n) for n in back.weights)


def test_two_networks_in_one_file_are_refused() -> None:
    entries = {f"{p}.{n}": a for p in ("student", "teacher") for n, a in entries_of("timm").items()}
    with pytest.raises(UserError, match=r"holds 2 networks, under student\., teacher\."):
        from_entries(entries, Path("file"))
    entries = {f"net.{n}": a for n, a in entries_of("timm").items()}
    with pytest.raises(UserError, match=r"'fc.bias' both with and without 'net\.'"):
        from_entries(entries | {"fc.bias": entries["net.fc.bias"]}, Path("file"))


def test_max_pool_is_the_layouts() -> None:
    same = dataclasses.replace(SMALL, max_pool="same")
    original = from_entries(entries_of("original"), Path("file")).architecture
    assert original == with_biases("original", same)
    assert from_entries(entries_of("mindcv"), Path("file")).architecture == same
    assert from_entries(entries_of("timm"), Path("file")).architecture == SMALL
