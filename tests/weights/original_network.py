"""The original model zoo's network, built in MindSpore from its description, as a reference.

32 separate convolutions per grouped one, SE and classifier without the biases it lacks, max-pool
padded `same`, and a head that pools 7x7, so that only 224 px works.
"""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

BN = {"eps": 1e-5, "momentum": 0.9}


def conv(inp: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inp, out, kernel, stride, "pad", kernel // 2)


class GroupConv(nn.Cell):
    def __init__(self, width: int, groups: int, stride: int) -> None:
        super().__init__()
        self.groups = groups
        size = width // groups
        self.convs = nn.CellList([conv(size, size, 3, stride) for _ in range(groups)])

    def construct(self, x: Tensor) -> Tensor:
        parts = ops.chunk(x, self.groups, axis=1)
        return ops.cat([c(part) for c, part in zip(self.convs, parts, strict=True)], axis=1)


class SEModule(nn.Cell):
    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, has_bias=True)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def construct(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keep_dims=True)
        return x * ops.sigmoid(self.fc2(ops.relu(self.fc1(squeezed))))


class Block(nn.Cell):
    def __init__(self, inp: int, planes: int, groups: int, stride: int, first: bool) -> None:
        super().__init__()
        width, out = planes * 4 // 64 * groups, planes * 4
        self.conv1, self.bn1 = conv(inp, width, 1), nn.BatchNorm2d(width, **BN)
        self.conv2, self.bn2 = GroupConv(width, groups, stride), nn.BatchNorm2d(width, **BN)
        self.conv3, self.bn3 = conv(width, out, 1), nn.BatchNorm2d(out, **BN)
        self.se_module = SEModule(out, 16)
        self.downsample = (
            nn.SequentialCell(conv(inp, out, 1, stride), nn.BatchNorm2d(out, **BN))
            if first
            else None
        )

    def construct(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = ops.relu(self.bn1(self.conv1(x)))
        x = ops.relu(self.bn2(self.conv2(x)))
        return ops.relu(self.se_module(self.bn3(self.conv3(x))) + shortcut)


class OriginalNetwork(nn.Cell):
    """`OriginalNetwork((3, 4, 6, 3), 1000)` is the SE-ResNeXt50 32x4d with 810 entries."""

    def __init__(self, layers: tuple[int, ...], classes: int, groups: int = 32) -> None:
        super().__init__()
        self.layer0 = nn.SequentialCell(conv(3, 64, 7, 2), nn.BatchNorm2d(64, **BN), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, "same")
        inp, stages = 64, []
        for stage, depth in enumerate(layers):
            blocks = []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(Block(inp, 64 << stage, groups, stride, index == 0))
                inp = (64 << stage) * 4
            stages.append(nn.SequentialCell(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avg_pool = nn.AvgPool2d(7, 1)
        self.last_linear = nn.Dense(2048, classes, has_bias=False)

    def construct(self, x: Tensor) -> Tensor:
        """float32 [B, 3, 224, 224] -> logits [B, K]."""
        x = self.pool(self.layer0(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.last_linear(self.avg_pool(x).reshape(x.shape[0], -1))


def randomize(net: nn.Cell, seed: int) -> None:
    """Weights and statistics with nothing left at a value that could hide a mistake.

    The branches' last BN is damped and the SE gates are spread: undamped, a random network of this
    depth is chaotic (float32 rounding becomes percents of the logits); with flat gates it hardly
    notices how the max-pool is padded.
    """
    rng = np.random.default_rng(seed)
    for parameter in net.get_parameters():
        name, shape = parameter.name, parameter.shape
        if len(shape) > 1:
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("gamma", "moving_variance")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.standard_normal(shape) * 0.05
        if "se_module" in name:
            value = value * 4
        if name.endswith("bn3.gamma"):
            value = value * 0.3
        parameter.set_data(Tensor(value.astype(np.float32)))


def logits(net: nn.Cell, x: np.ndarray) -> np.ndarray:
    """float32 [B, 3, H, W] -> logits in evaluation mode."""
    net.set_train(False)
    return net(Tensor(x)).asnumpy()


# Once something was computed in this process, MindSpore refuses even to set the present device.
if mindspore.get_context("device_target") != "CPU":
    mindspore.set_device("CPU")
