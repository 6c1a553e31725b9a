"""The SE-ResNeXt family in MindSpore: names, order and outputs of the PyTorch engine's network.

`tests/engines/test_parity.py` compares the two; the family itself is described in
`model/architecture.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import operations as P
from numpy.typing import NDArray

from ...model.architecture import BN_EPS, BN_MOMENTUM, Architecture, Block, is_buffer
from .parameters import to_arrays
from .pointwise import LARGE, Pointwise
from .reductions import Gate, mean_over_pixels
from .sync_bn import SyncBatchNorm

_cast, _reshape = P.Cast(), P.Reshape()


@dataclass(frozen=True)
class Arithmetic:
    """How a network computes. All but `fixed` changes outputs by rounding only."""

    half: ms.Type = ms.float32
    """Type of convolutions and matrix products: float32, float16, bfloat16."""
    half_batch_norm: bool = False
    """Compute BN in that type too, instead of float32."""
    bn_ranks: int = 1
    """Above 1, BN takes its batch statistics over this many ranks."""
    on_cpu: bool = True
    """Train with the operators that are fast there: see pointwise.py."""
    fixed: frozenset[str] = frozenset()
    """BN statistics that training neither uses the batch for nor changes."""


class SEResNeXt(nn.Cell):
    """Stem, four stages of bottlenecks, global average pool, classifier.

    `tensors` holds every parameter under its canonical name, BN statistics included. Two networks
    in one graph need parameter names with different prefixes.
    """

    def __init__(
        self,
        arch: Architecture,
        weights: Mapping[str, NDArray[Any]],
        arithmetic: Arithmetic | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__()
        arithmetic = arithmetic or Arithmetic()
        self.arch, self.arithmetic = arch, arithmetic
        self.half = arithmetic.half
        self.tensors = {
            name: Parameter(Tensor(array), name=name, requires_grad=not is_buffer(name))
            for name, array in weights.items()
        }
        layers = Layers(self.tensors, arithmetic)
        if arch.stem == "conv7":
            self.stem = nn.CellList([layers.conv_bn("conv1", "bn1", stride=2)], auto_prefix=False)
        else:
            names = (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))
            self.stem = nn.CellList(
                [layers.conv_bn(c, b, stride=2 if c == "conv1.0" else 1) for c, b in names],
                auto_prefix=False,
            )
        self.max_pool = MaxPool(arch.max_pool)
        self.blocks = nn.CellList(
            [Bottleneck(block, arch, layers) for block in arch.blocks()], auto_prefix=False
        )
        self.fc = layers.linear("fc")
        for name, tensor in self.tensors.items():
            tensor.name = prefix + name  # the cells above have renamed it

    def activations(self, x):  # type: ignore[no-untyped-def]
        """Normalised images -> logits, last feature map, and the gates of every block, eagerly."""
        x = _cast(x, self.half)
        for layer in self.stem:
            x = ops.relu(layer(x, False))
        x, gates = self.max_pool(x), []
        for block in self.blocks:
            gates.append(block.branch(x, False)[1])
            x = block(x, None, False)
        return self.fc(mean_over_pixels(x)), x, gates

    def copy(self, prefix: str) -> SEResNeXt:
        """Return a copy of the network whose parameters' names have this prefix."""
        return SEResNeXt(self.arch, to_arrays(self.tensors), self.arithmetic, prefix)

    def construct(self, x, drop_path=None, dropout=None, training=False):  # type: ignore[no-untyped-def]
        """Normalised images float32 [B, 3, H, W], H and W at least 32 -> logits float32 [B, K].

        `drop_path` [B, blocks] and `dropout` [B, num_features] are the factors drawn by
        `model.noise.draw_noise`; None is no noise. `training`, a constant of the graph, makes BN
        use and record the batch's statistics.
        """
        x = _cast(x, self.half)
        for layer in self.stem:
            x = ops.relu(layer(x, training))
        x = self.max_pool(x)
        for number, block in enumerate(self.blocks):
            x = block(x, None if drop_path is None else drop_path[:, number], training)
        features = mean_over_pixels(x)
        if dropout is not None:
            features = features * _cast(dropout, self.half)
        return _cast(self.fc(features), ms.float32)


class Bottleneck(nn.Cell):
    """1x1, grouped 3x3, 1x1, each with BN; squeeze-and-excitation; residual add; ReLU."""

    def __init__(self, block: Block, arch: Architecture, layers: Layers) -> None:
        super().__init__(auto_prefix=False)
        name = block.name
        self.conv1 = layers.conv_bn(f"{name}.conv1", f"{name}.bn1")
        self.conv2 = layers.conv_bn(
            f"{name}.conv2", f"{name}.bn2", stride=block.stride, groups=arch.cardinality
        )
        self.conv3 = layers.conv_bn(f"{name}.conv3", f"{name}.bn3")
        self.fc1 = layers.linear(f"{name}.se.fc1")
        self.fc2 = layers.linear(f"{name}.se.fc2")
        self.gate = Gate()
        self.pool = None
        self.downsample = None
        if block.has_downsample:
            first, stride = 0, block.stride
            if arch.downsample == "avg":
                # `same` pads an odd side by one at its end and leaves the padding out of the
                # mean: torch's ceil_mode without count_include_pad.
                self.pool = P.AvgPool(2, 2, "same") if stride > 1 else None
                first, stride = 1, 1
            self.downsample = layers.conv_bn(
                f"{name}.downsample.{first}", f"{name}.downsample.{first + 1}", stride=stride
            )

    def construct(self, x, drop_path, training):  # type: ignore[no-untyped-def]
        """`drop_path` [B] scales the branch of each sample; None is 1."""
        shortcut = x
        if self.pool is not None:
            shortcut = self.pool(shortcut)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut, training)
        x, gate = self.branch(x, training)
        if drop_path is not None:
            gate = gate * _reshape(_cast(drop_path, gate.dtype), (-1, 1))
        return ops.relu(shortcut + self.gate(x, gate))

    def branch(self, x, training):  # type: ignore[no-untyped-def]
        """The residual branch [B, C, H, W] before its gates, and the gates in 0..1, [B, C]."""
        x = ops.relu(self.conv1(x, training))
        x = ops.relu(self.conv2(x, training))
        x = self.conv3(x, training)
        return x, ops.sigmoid(self.fc2(ops.relu(self.fc1(mean_over_pixels(x)))))


class ConvBN(nn.Cell):
    """Convolution without bias, padded to keep the size at stride 1, then BN."""

    def __init__(
        self,
        weight: Parameter,
        bn: tuple[Parameter, Parameter, Parameter, Parameter],
        stride: int,
        groups: int,
        arithmetic: Arithmetic,
        fixed: bool,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.half = arithmetic.half
        self.bn_type = arithmetic.half if arithmetic.half_batch_norm else ms.float32
        self.weight = weight
        self.gamma, self.beta, self.mean, self.variance = bn
        out, _, kernel, _ = weight.shape
        self.conv = P.Conv2D(out, kernel, 1, "pad", kernel // 2, stride, 1, groups)
        self.training_conv = self.conv
        if arithmetic.on_cpu and kernel == 1 and weight.size >= LARGE:
            self.training_conv = Pointwise(weight, stride)
        self.fixed = fixed
        self.normalise = P.BatchNorm(is_training=False, epsilon=BN_EPS)
        # The statistics take the unbiased variance of the batch, as in torch.
        self.normalise_batch = P.BatchNorm(is_training=True, epsilon=BN_EPS, momentum=BN_MOMENTUM)
        if arithmetic.bn_ranks > 1:
            self.normalise_batch = SyncBatchNorm(arithmetic.bn_ranks)

    def construct(self, x, training):  # type: ignore[no-untyped-def]
        conv = self.training_conv if training else self.conv
        bn = self.normalise_batch if training and not self.fixed else self.normalise
        x = _cast(conv(x, _cast(self.weight, self.half)), self.bn_type)
        return _cast(bn(x, self.gamma, self.beta, self.mean, self.variance)[0], self.half)


class Linear(nn.Cell):
    """Matrix product and bias, if any; reads the kernel of a 1x1 convolution as a matrix."""

    def __init__(self, weight: Parameter, bias: Parameter | None, half: ms.Type) -> None:
        super().__init__(auto_prefix=False)
        self.weight, self.bias, self.half = weight, bias, half
        self.shape = weight.shape[:2]
        self.product = P.MatMul(transpose_b=True)

    def construct(self, x):  # type: ignore[no-untyped-def]
        """[B, in] -> [B, out]."""
        weight = _cast(_reshape(self.weight, self.shape), self.half)
        x = self.product(x, weight)
        return x if self.bias is None else x + _cast(self.bias, self.half)


class MaxPool(nn.Cell):
    """3x3, stride 2, padded by 1 on every side (`torch`) or as TensorFlow does (`same`)."""

    def __init__(self, padding: str) -> None:
        super().__init__(auto_prefix=False)
        self.same = P.MaxPool(3, 2, "same") if padding == "same" else None
        # The two-dimensional operator cannot pad by 1 on every side.
        self.padded = P.MaxPool3D((1, 3, 3), (1, 2, 2), "pad", (0, 0, 1, 1, 1, 1))

    def construct(self, x):  # type: ignore[no-untyped-def]
        if self.same is not None:
            return self.same(x)
        return ops.squeeze(self.padded(ops.expand_dims(x, 2)), 2)


class Layers:
    """Builds layers on parameters looked up by canonical name."""

    def __init__(self, tensors: dict[str, Parameter], arithmetic: Arithmetic) -> None:
        self.tensors, self.arithmetic = tensors, arithmetic

    def conv_bn(self, conv: str, bn: str, *, stride: int = 1, groups: int = 1) -> ConvBN:
        get = self.tensors.__getitem__
        statistics = (get(f"{bn}.running_mean"), get(f"{bn}.running_var"))
        return ConvBN(
            get(f"{conv}.weight"),
            (get(f"{bn}.weight"), get(f"{bn}.bias"), *statistics),
            stride,
            groups,
            self.arithmetic,
            f"{bn}.running_mean" in self.arithmetic.fixed,
        )

    def linear(self, name: str) -> Linear:
        get = self.tensors.get
        return Linear(self.tensors[f"{name}.weight"], get(f"{name}.bias"), self.arithmetic.half)
