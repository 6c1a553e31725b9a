"""timm's networks, the reference for names, shapes, outputs and gradients."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seresnext.model.architecture import Architecture, architecture


def _declare_torchvision_operators() -> torch.library.Library | None:
    """timm imports torchvision, whose wheel cannot load its compiled operators beside a CPU build
    of PyTorch. Declaring their names is enough for an import; none is called."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        import torchvision  # noqa: F401

        return None
    except RuntimeError:  # "operator torchvision::nms does not exist"
        source = (Path(spec.origin).parent / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "DEF")
    for name in dict.fromkeys(re.findall(r'register_fake\("torchvision::([^"]+)"', source)):
        library.define(f"{name}(Tensor x) -> Tensor")
    return library


_LIBRARY = _declare_torchvision_operators()  # declarations live as long as this object

import timm  # noqa: E402


def timm_model(arch: Architecture) -> nn.Module:
    """timm's network for `arch`: by name alone where that says it all, else by its options."""
    known = bool(timm.list_models(arch.name))
    if known and arch == architecture(arch.name, num_classes=arch.num_classes):
        return timm.create_model(arch.name, num_classes=arch.num_classes)
    options: dict[str, object] = {"layers": arch.layers, "cardinality": arch.cardinality}
    if arch.stem == "deep":
        options |= {"stem_width": 32, "stem_type": "deep"}
    if arch.downsample == "avg":
        options["avg_down"] = True
    return timm.create_model("seresnext50_32x4d", num_classes=arch.num_classes, **options)


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """timm's state without the counters that canonical weights leave out."""
    return {
        name: tensor.detach().numpy()
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }


def load_canonical(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Put canonical weights into timm's network; every name must be used."""
    state = {name: torch.tensor(array) for name, array in weights.items()}
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    model.load_state_dict(state | counters, strict=True)


def training_gradients(model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Gradients of the mean cross-entropy in training mode, and the BN statistics it left."""
    model.train()
    model.zero_grad()
    F.cross_entropy(model(x), labels).backward()
    gradients = {
        name: parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return gradients | canonical(dict(model.named_buffers()))


def assert_close(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], tolerance: float = 1e-5
) -> None:
    """Same names in the same order; every array within `tolerance`, relative to its norm."""
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        error = np.linalg.norm(ours[name] - expected) / np.linalg.norm(expected)
        assert error <= tolerance, f"{name}: relative error {error:.2e}"
