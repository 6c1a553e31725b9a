"""The PyTorch network against timm's of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.timm_reference import (
    assert_close,
    canonical,
    load_canonical,
    timm,
    timm_model,
    training_gradients,
)
from seresnext.engines.torch.network import load_network
from seresnext.model.architecture import MODEL_NAMES, Architecture, architecture, weight_shapes
from seresnext.model.init import init_weights
from seresnext.model.saved_model import load_model, save_model
from seresnext.model.spec import InputSpec, ModelSpec

CLASSES = 7


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Float64 convolutions start a thread team per group; alone they are faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_weights(arch: Architecture, seed: int = 0) -> dict[str, np.ndarray]:
    """Starting weights with every BN constant moved off its default, so that none is untested."""
    rng = np.random.default_rng(seed)
    weights = init_weights(arch, seed)
    for name, value in weights.items():
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith(".weight")):
            weights[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif value.ndim == 1:
            weights[name] = rng.normal(0, 0.1, value.shape).astype(np.float32)
    return weights


def images(side: int, batch: int = 2) -> torch.Tensor:
    rng = np.random.default_rng(side)
    return torch.tensor(rng.standard_normal((batch, 3, side, side)))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_names_order_and_shapes(name: str) -> None:
    arch = architecture(name, num_classes=CLASSES)
    with torch.device("meta"):
        theirs = timm_model(arch).state_dict()
    shapes = {k: tuple(v.shape) for k, v in theirs.items() if "num_batches" not in k}
    assert list(shapes.items()) == list(weight_shapes(arch).items())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((n, {}) for n in MODEL_NAMES if "101" not in n),
        ("seresnext101_64x4d", {"layers": (1, 1, 2, 1)}),
        *(pytest.param(n, {}, marks=pytest.mark.slow) for n in MODEL_NAMES if "101" in n),
    ],
)
def test_our_weights_in_timm(name: str, options: dict) -> None:
    """Evaluation logits, then one training step's gradients and BN statistics, in float64."""
    arch = architecture(name, num_classes=CLASSES, **options)
    weights = random_weights(arch)
    ours, theirs = load_network(arch, weights).double(), timm_model(arch)
    load_canonical(theirs, weights)
    theirs.double().eval()
    x = images(32, batch=4)
    with torch.inference_mode():
        logits, expected = ours(x).numpy(), theirs(x).numpy()
    assert_close({"logits": logits}, {"logits": expected})
    labels = torch.tensor([0, 1, 2, 3])
    assert_close(training_gradients(ours, x, labels), training_gradients(theirs, x, labels))


@pytest.mark.parametrize("side", [32, 33, 47, 64, 75])
@pytest.mark.parametrize("name", ["seresnext26_32x4d", "seresnext26d_32x4d"])
def test_timm_weights_in_ours(name: str, side: int) -> None:
    """At odd sizes too, where the paddings of pooling and of the shortcuts show."""
    torch.manual_seed(0)
    arch = architecture(name, num_classes=CLASSES)
    theirs = timm_model(arch)
    ours = load_network(arch, canonical(theirs.state_dict())).double()
    theirs.double().eval()
    with torch.inference_mode():
        logits, expected = ours(images(side)).numpy(), theirs(images(side)).numpy()
    assert_close({"logits": logits}, {"logits": expected})


def test_one_perturbed_weight_is_noticed() -> None:
    arch = architecture("seresnext26_32x4d", num_classes=CLASSES)
    weights = random_weights(arch)
    theirs = timm_model(arch)
    load_canonical(theirs, weights)
    theirs.double()
    weights["layer2.0.conv2.weight"].flat[0] += 0.05
    ours = load_network(arch, weights).double()
    x, labels = images(64, batch=4), torch.tensor([0, 1, 2, 3])
    expected = training_gradients(theirs, x, labels)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(training_gradients(ours, x, labels), expected)
    with pytest.raises(AssertionError):
        assert_close(dict(reversed(expected.items())), expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("seresnext50_32x4d", {}),
        ("seresnext26d_32x4d", {}),
        ("seresnext26_32x4d", {}),  # no name of timm's
        ("seresnext50d_32x4d", {"layers": (1, 1, 1, 1), "cardinality": 4, "base_width": 8}),
    ],
)
def test_timm_opens_a_finished_model(name: str, options: dict, tmp_path: Path) -> None:
    arch = architecture(name, num_classes=CLASSES, **options)
    names = tuple(f"class {k}" for k in range(CLASSES))
    spec = ModelSpec(arch, names, InputSpec(64, 0.9, "bilinear", mean=(0.1, 0.2, 0.3)))
    folder = tmp_path / "model"
    save_model(folder, spec, random_weights(arch))
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).double().eval()
    loaded_spec, weights = load_model(folder)
    ours = load_network(loaded_spec.architecture, weights).double()
    with torch.inference_mode():
        logits, expected = ours(images(64)).numpy(), theirs(images(64)).numpy()
    assert_close({"logits": logits}, {"logits": expected}, 1e-12)
    data = timm.data.resolve_model_data_config(theirs)
    assert tuple(data["input_size"]) == (3, 64, 64)
    assert (data["crop_pct"], data["interpolation"]) == (0.9, "bilinear")
    assert (tuple(data["mean"]), tuple(data["std"])) == (spec.input.mean, spec.input.std)
    assert tuple(theirs.pretrained_cfg["label_names"]) == names


@pytest.mark.parametrize("options", [{"max_pool": "same"}, {"se_reduction": 8}])
def test_timm_refuses_what_it_cannot_express(options: dict, tmp_path: Path) -> None:
    arch = architecture("seresnext26_32x4d", num_classes=2, **options)
    spec = ModelSpec(arch, ("a", "b"))
    save_model(tmp_path, spec, init_weights(arch, 0))
    assert load_model(tmp_path)[0] == spec
    with pytest.raises((RuntimeError, TypeError, AttributeError)):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
