"""The network for prediction: every BN folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...model.architecture import BN_EPS, Architecture, weight_shapes
from ..base import Activations
from .devices import Setup, Upload
from .flat import Flat
from .loss import Normalise
from .network import attach, empty_network


class Predictor:
    """uint8 images -> logits, with a folded copy of the weights that `refresh` replaces.

    In evaluation a BN multiplies and shifts each channel by constants. Folded into the kernel and
    a bias, that costs nothing; on its own it reads and writes the whole activation.
    """

    def __init__(self, arch: Architecture, normalise: Normalise, setup: Setup) -> None:
        self.arch, self.normalise, self.setup = arch, normalise, setup
        self.upload = Upload(setup.device)
        self.pairs = _convolution_of_bn(arch)
        shapes = {}
        for name, shape in weight_shapes(arch).items():
            layer, _, part = name.rpartition(".")
            if layer not in self.pairs:
                shapes[name] = shape
            elif part == "bias":
                shapes[f"{self.pairs[layer]}.bias"] = shape
        self.weights = Flat(shapes, setup.device, setup.config.channels_last)
        network = empty_network(arch)
        for bn in self.pairs:
            parent, _, child = bn.rpartition(".")
            network.get_submodule(parent).add_module(child, nn.Identity())
        attach(network, self.weights.views)
        self.network = network.eval()
        if setup.config.compile:
            self.network.compile()

    @torch.no_grad()
    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy and fold canonical weights and BN statistics."""
        folded = self.weights.views
        for name, view in folded.items():
            if name in tensors:
                view.copy_(tensors[name])
        for bn, convolution in self.pairs.items():
            scale = tensors[f"{bn}.weight"] * torch.rsqrt(tensors[f"{bn}.running_var"] + BN_EPS)
            folded[f"{convolution}.weight"].mul_(scale[:, None, None, None])
            shift = tensors[f"{bn}.bias"] - tensors[f"{bn}.running_mean"] * scale
            folded[f"{convolution}.bias"].copy_(shift)

    @torch.inference_mode()
    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, H, W, 3] -> float32 [N, K], any N."""
        if len(images) == 0:
            return np.zeros((0, self.arch.num_classes), np.float32)
        return _array(self._run(self.network, images))

    @torch.inference_mode()
    def activations(self, images: NDArray[Any]) -> Activations:
        """uint8 [N, H, W, 3] -> what `Activations` holds, N at least 1. Not compiled."""
        outputs: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module) -> RemovableHandle:
            return module.register_forward_hook(lambda _, __, out: outputs.update({name: out}))

        gates = [block.name for block in self.arch.blocks()]
        hooks = [keep(name, self.network.get_submodule(f"{name}.se")) for name in gates]
        hooks.append(keep("features", self.network.get_submodule(gates[-1])))
        try:
            logits = self._run(self.network.forward, images)
        finally:
            for hook in hooks:
                hook.remove()
        return Activations(
            _array(logits),
            _array(outputs["features"]),
            {name: _array(outputs[name][:, :, 0, 0]) for name in gates},
        )

    def _run(self, network: Callable[[Tensor], Tensor], images: NDArray[Any]) -> Tensor:
        pixels = self.upload({"images": images})["images"]
        autocast, device = self.setup.autocast, self.setup.device.type
        with torch.autocast(device, autocast, enabled=autocast is not None):
            return network(self.normalise(pixels))


def _array(tensor: Tensor) -> NDArray[Any]:
    return np.asarray(tensor.float().cpu().numpy())


def _convolution_of_bn(arch: Architecture) -> dict[str, str]:
    """Return name of each BN -> name of its convolution, which is the layer before it."""
    pairs, convolution = {}, ""
    for name, shape in weight_shapes(arch).items():
        layer, _, part = name.rpartition(".")
        if len(shape) == 4:
            convolution = layer
        elif part == "running_mean":
            pairs[layer] = convolution
    return pairs
