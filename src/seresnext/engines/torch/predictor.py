"""The network as it predicts: every BN folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ...config import EngineConfig
from ...model.architecture import BN_EPS, Architecture, weight_shapes
from .devices import Upload
from .flat import Flat
from .loss import Normalise
from .network import attach, empty_network


class Predictor:
    """uint8 images -> logits, by folded weights of its own that follow others on `refresh`.

    In evaluation a BN multiplies and shifts each channel by constants; folded into the kernel
    and a bias, that costs nothing, where by itself it reads and writes the whole activation.
    """

    def __init__(
        self,
        arch: Architecture,
        normalise: Normalise,
        engine: EngineConfig,
        autocast: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self.arch, self.normalise, self.autocast, self.device = arch, normalise, autocast, device
        self.upload = Upload(device)
        self.pairs = _convolution_of_bn(arch)
        shapes = {}
        for name, shape in weight_shapes(arch).items():
            layer, _, part = name.rpartition(".")
            if layer not in self.pairs:
                shapes[name] = shape
            elif part == "bias":
                shapes[f"{self.pairs[layer]}.bias"] = shape
        self.weights = Flat(shapes, device, engine.channels_last)
        network = empty_network(arch)
        for bn in self.pairs:
            parent, _, child = bn.rpartition(".")
            network.get_submodule(parent).add_module(child, nn.Identity())
        attach(network, self.weights.views)
        self.network = network.eval()
        if engine.compile:
            self.network.compile()

    @torch.no_grad()
    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over canonical weights and BN statistics."""
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
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, K], any N."""
        if len(images) == 0:
            return np.zeros((0, self.arch.num_classes), np.float32)
        pixels = self.upload({"images": images})["images"]
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            logits = self.network(self.normalise(pixels))
        return logits.float().cpu().numpy()


def _convolution_of_bn(arch: Architecture) -> dict[str, str]:
    """Name of each BN -> name of its convolution, which stands just before it."""
    pairs, convolution = {}, ""
    for name, shape in weight_shapes(arch).items():
        layer, _, part = name.rpartition(".")
        if len(shape) == 4:
            convolution = layer
        elif part == "running_mean":
            pairs[layer] = convolution
    return pairs
