"""The SE-ResNeXt family in PyTorch: names, order and outputs of timm's models of the same name.

`tests/engines/test_torch_timm.py` holds it against timm; the family itself is described in
`model/architecture.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...model.architecture import BN_EPS, BN_MOMENTUM, Architecture, Block, is_buffer


class SEResNeXt(nn.Module):
    """Stem, four stages of bottlenecks, global average pool, classifier.

    Its initial weights are torch's: set them with `attach`, or build it with `load_network`.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        if arch.stem == "conv7":
            self.conv1: nn.Module = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        else:
            self.conv1 = nn.Sequential(
                nn.Conv2d(3, 32, 3, 2, 1, bias=False),
                batch_norm(32),
                nn.ReLU(inplace=True),
                nn.Conv2d(32, 32, 3, 1, 1, bias=False),
                batch_norm(32),
                nn.ReLU(inplace=True),
                nn.Conv2d(32, 64, 3, 1, 1, bias=False),
            )
        self.bn1 = batch_norm(64)
        stages: dict[str, list[Bottleneck]] = {}
        for block in arch.blocks():
            stages.setdefault(block.name.split(".")[0], []).append(Bottleneck(block, arch))
        for name, blocks in stages.items():
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(arch.num_features, arch.num_classes, bias=arch.classifier_bias)

    def forward(
        self, x: Tensor, drop_path: Tensor | None = None, dropout: Tensor | None = None
    ) -> Tensor:
        """Normalised images float [B, 3, H, W], H and W at least 32 -> logits [B, K].

        `drop_path` [B, blocks] and `dropout` [B, num_features] are the factors that
        `model.noise.draw_noise` drew; None is no noise.
        """
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self._max_pool(x)
        number = 0
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for block in self.get_submodule(stage).children():
                x = block(x, None if drop_path is None else drop_path[:, number])
                number += 1
        features = x.mean((2, 3))
        if dropout is not None:
            features = features * dropout
        logits: Tensor = self.fc(features)
        return logits

    def _max_pool(self, x: Tensor) -> Tensor:
        if self.arch.max_pool == "torch":
            return F.max_pool2d(x, 3, 2, 1)
        # TensorFlow's `same`: an even side is padded by one at its end, as `ceil_mode` does
        # (padding is never the maximum); an odd side by one at both ends.
        return F.max_pool2d(x, 3, 2, (x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True)


class Bottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1, each with BN; squeeze-and-excitation; residual add; ReLU."""

    def __init__(self, block: Block, arch: Architecture) -> None:
        super().__init__()
        width, out = block.width, block.out_channels
        self.conv1 = nn.Conv2d(block.in_channels, width, 1, bias=False)
        self.bn1 = batch_norm(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, block.stride, 1, groups=arch.cardinality, bias=False
        )
        self.bn2 = batch_norm(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = batch_norm(out)
        self.se = SqueezeExcitation(out, block.se_channels, arch.se_bias)
        self.downsample = _downsample(block, arch) if block.has_downsample else None

    def forward(self, x: Tensor, drop_path: Tensor | None) -> Tensor:
        """`drop_path` [B] scales the branch of each sample; None is 1."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = self.bn3(self.conv3(x))
        gate = self.se(x)
        if drop_path is not None:
            gate = gate * drop_path[:, None, None, None]
        return F.relu(torch.addcmul(shortcut, x, gate), inplace=True)


class SqueezeExcitation(nn.Module):
    """Channel gates from global averages (SENet paper, section 3)."""

    def __init__(self, channels: int, squeezed: int, bias: bool) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> gates in 0..1, [B, C, 1, 1]."""
        squeezed = x.mean((2, 3), keepdim=True)
        return torch.sigmoid(self.fc2(F.relu(self.fc1(squeezed), inplace=True)))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BN without `num_batches_tracked`, which a fixed momentum does not use."""
    bn = nn.BatchNorm2d(channels, BN_EPS, BN_MOMENTUM)
    bn.num_batches_tracked = None
    return bn


def _downsample(block: Block, arch: Architecture) -> nn.Sequential:
    """Return the shortcut of a stage's first block; the layers' positions are timm's names."""
    layers: list[nn.Module] = []
    stride = block.stride
    if arch.downsample == "avg":
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
        layers.append(pool if stride > 1 else nn.Identity())
        stride = 1
    layers.append(nn.Conv2d(block.in_channels, block.out_channels, 1, stride, bias=False))
    layers.append(batch_norm(block.out_channels))
    return nn.Sequential(*layers)


def attach(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Use these tensors as the network's parameters and buffers, without copying."""
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = network.get_submodule(path)
        if is_buffer(name):
            owner.register_buffer(leaf, tensor)
        else:
            owner.register_parameter(leaf, nn.Parameter(tensor))


def empty_network(arch: Architecture) -> SEResNeXt:
    """Return the network without storage, for `attach`."""
    with torch.device("meta"):
        return SEResNeXt(arch)


def load_network(arch: Architecture, weights: Mapping[str, NDArray[Any]]) -> SEResNeXt:
    """Return the network in evaluation mode on the CPU, with a copy of canonical weights."""
    network = empty_network(arch)
    attach(network, {name: torch.tensor(array) for name, array in weights.items()})
    return network.eval()
