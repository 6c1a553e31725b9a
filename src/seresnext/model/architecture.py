"""The SE-ResNeXt family: architectures, and the names and shapes of their weights.

Squeeze-and-Excitation Networks (Hu et al., arXiv:1709.01507) on ResNeXt blocks (Xie et al.,
arXiv:1611.05431); the deep stem and the average-pool downsample are ResNet-C and ResNet-D of
Bag of Tricks (He et al., arXiv:1812.01187). Names, shapes and order of the weights are those
of timm's models of the same name, without `num_batches_tracked`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from ..errors import UserError, listed
from ..schema import PositiveInt, Rate, checked
from ..tensors import Entry

EXPANSION = 4
"""Ratio of a block's output channels to its stage's base channels."""
STAGE_CHANNELS = (64, 128, 256, 512)
LAST_STRIDE = 32
"""Pixels of the image per pixel of the last stage."""
BN_EPS = 1e-5
BN_MOMENTUM = 0.1
"""Weight of the new batch in the running statistics (torch's convention; MindSpore's 0.9)."""
MAX_PARAMETERS = 2**28
"""Largest network that is described: three times the family's largest, 1 GB in float32."""
BUFFER_SUFFIXES = (".running_mean", ".running_var")


@dataclass(frozen=True)
class Block:
    """One bottleneck: 1x1, grouped 3x3, 1x1, squeeze-and-excitation, residual add."""

    name: str
    in_channels: int
    width: int
    """Channels of the grouped 3x3."""
    out_channels: int
    stride: int
    se_channels: int
    has_downsample: bool
    drop_path: float
    """Probability that a sample skips this block's branch in training."""


def four_counts(layers: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks per stage."""
    if len(layers) != len(STAGE_CHANNELS) or not all(1 <= n <= 128 for n in layers):
        raise ValueError("four counts of 1 to 128")
    return layers


@checked("model")
class Architecture:
    """A complete description of a network: equal values build equal networks."""

    name: str = "seresnext50_32x4d"
    num_classes: PositiveInt = 1000
    layers: Annotated[tuple[int, ...], AfterValidator(four_counts)] = (3, 4, 6, 3)
    """Blocks per stage."""
    cardinality: PositiveInt = 32
    """Groups of the 3x3 convolution."""
    base_width: PositiveInt = 4
    """Channels per group in the first stage; doubles with each stage."""
    se_reduction: PositiveInt = 16
    """Squeeze ratio of the SE module (SENet paper, section 6.1)."""
    stem: Literal["conv7", "deep"] = "conv7"
    """`conv7`: one 7x7/2. `deep`: 3x3/2, 3x3, 3x3 with 32, 32, 64 channels (ResNet-C)."""
    downsample: Literal["conv", "avg"] = "conv"
    """Shortcut of a stage's first block: strided 1x1, or 2x2 average pool then 1x1 (ResNet-D)."""
    max_pool: Literal["torch", "same"] = "torch"
    """Padding of the stem's 3x3/2 max-pool: 1 on every side, or TensorFlow-style `same` (the
    original model zoo and mindcv). At even sizes the windows differ by one pixel."""
    drop_path: Rate = 0.0
    """Stochastic depth (arXiv:1603.09382): rate of the last block; grows linearly from 0."""
    dropout: Rate = 0.0
    """Dropout before the classifier."""
    zero_init_last_bn: bool = True
    """Start each block as the identity: weight of its last BN is 0 (arXiv:1706.02677)."""
    classifier_bias: bool = True
    """The original model zoo's classifier has none."""
    se_bias: bool = True
    """Bias of the SE module's second layer; the original model zoo's has none."""

    def __post_init__(self) -> None:
        parameters = count_parameters(self)
        if parameters > MAX_PARAMETERS:
            raise UserError(
                f"model: the network would have {parameters:.3g} parameters, more than the "
                f"{MAX_PARAMETERS:.3g} that are accepted; use fewer layers or classes, or a "
                "smaller cardinality or base_width"
            )

    @property
    def num_features(self) -> int:
        """Width of the pooled features the classifier reads."""
        return STAGE_CHANNELS[-1] * EXPANSION

    def blocks(self) -> Iterator[Block]:
        """Every block, input to output."""
        total, number, in_channels = sum(self.layers), 0, 64
        for stage, (channels, depth) in enumerate(zip(STAGE_CHANNELS, self.layers, strict=True)):
            out_channels = channels * EXPANSION
            for index in range(depth):
                stride = 2 if index == 0 and stage > 0 else 1
                yield Block(
                    name=f"layer{stage + 1}.{index}",
                    in_channels=in_channels,
                    width=channels * self.base_width // 64 * self.cardinality,
                    out_channels=out_channels,
                    stride=stride,
                    se_channels=_divisible(out_channels / self.se_reduction),
                    has_downsample=index == 0,
                    drop_path=self.drop_path * number / max(total - 1, 1),
                )
                in_channels, number = out_channels, number + 1


def _divisible(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor` and at least that, as timm rounds SE widths."""
    return max(divisor, int(channels + divisor / 2) // divisor * divisor)


_FAMILY: dict[str, dict[str, Any]] = {
    "seresnext26_32x4d": {"layers": (2, 2, 2, 2)},
    "seresnext50_32x4d": {},
    "seresnext101_32x4d": {"layers": (3, 4, 23, 3)},
    "seresnext101_64x4d": {"layers": (3, 4, 23, 3), "cardinality": 64},
    "seresnext26d_32x4d": {"layers": (2, 2, 2, 2), "stem": "deep", "downsample": "avg"},
    "seresnext50d_32x4d": {"stem": "deep", "downsample": "avg"},
}

MODEL_NAMES = tuple(_FAMILY)


def architecture(name: str, **overrides: Any) -> Architecture:
    """The named network, with fields replaced (`num_classes=10`, `drop_path=0.1`, ...).

    Raises UserError for a name outside the family.
    """
    if name not in _FAMILY:
        raise UserError(f"unknown model {name!r}; the family is {', '.join(MODEL_NAMES)}")
    settings: dict[str, Any] = {"name": name, **_FAMILY[name], **overrides}
    return Architecture(**settings)


def weight_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every weight and BN statistic, in the order of the network.

    Convolutions are [out, in / groups, kh, kw] (torch's layout), linear layers [out, in].
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, inp: int, k: int) -> None:
        shapes[f"{name}.weight"] = (out, inp, k, k)

    def bn(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    if arch.stem == "conv7":
        conv("conv1", 64, 3, 7)
    else:
        for position, (out, inp) in zip((0, 3, 6), ((32, 3), (32, 32), (64, 32)), strict=True):
            conv(f"conv1.{position}", out, inp, 3)
            if position < 6:
                bn(f"conv1.{position + 1}", out)
    bn("bn1", 64)
    for b in arch.blocks():
        conv(f"{b.name}.conv1", b.width, b.in_channels, 1)
        bn(f"{b.name}.bn1", b.width)
        conv(f"{b.name}.conv2", b.width, b.width // arch.cardinality, 3)
        bn(f"{b.name}.bn2", b.width)
        conv(f"{b.name}.conv3", b.out_channels, b.width, 1)
        bn(f"{b.name}.bn3", b.out_channels)
        for fc, out, inp, bias in (
            ("fc1", b.se_channels, b.out_channels, True),
            ("fc2", b.out_channels, b.se_channels, arch.se_bias),
        ):
            conv(f"{b.name}.se.{fc}", out, inp, 1)
            if bias:
                shapes[f"{b.name}.se.{fc}.bias"] = (out,)
        if b.has_downsample:
            first = 1 if arch.downsample == "avg" else 0
            conv(f"{b.name}.downsample.{first}", b.out_channels, b.in_channels, 1)
            bn(f"{b.name}.downsample.{first + 1}", b.out_channels)
    shapes["fc.weight"] = (arch.num_classes, arch.num_features)
    if arch.classifier_bias:
        shapes["fc.bias"] = (arch.num_classes,)
    return shapes


def fit_biases(
    arrays: Mapping[str, NDArray[Any]], arch: Architecture, what: str, advice: str
) -> dict[str, NDArray[Any]]:
    """The weights (or the momentum) of the same network, with the biases that `arch` has.

    One that `arch` alone has becomes zero; one that it lacks is left out. Raises UserError if that
    is not zero: `what` has no place for it, and `advice` says what to do.
    """
    shapes = weight_shapes(arch)

    def optional(name: str) -> bool:
        return name == "fc.bias" or name.endswith(".se.fc2.bias")

    lost = [n for n in arrays if optional(n) and n not in shapes]
    nonzero = [n for n in lost if arrays[n].any()]
    if nonzero:
        raise UserError(
            f"{what} has no place for {len(nonzero)} biases that are not zero: {listed(nonzero)}; "
            + advice
        )
    zeros = {n: np.zeros(s, np.float32) for n, s in shapes.items() if optional(n)}
    fitted = {**zeros, **arrays}
    return {n: fitted[n] for n in (*shapes, *arrays) if n in fitted and n not in lost}


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Entry], what: str
) -> None:
    """Raise UserError listing every name or shape of `found` that differs from `expected`."""
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    if problems:
        raise UserError(f"{what} do not fit the network: {listed(problems, '; ')}")


def check_finite(tensors: Mapping[str, NDArray[Any]], what: str) -> None:
    """Raise UserError naming the tensors that hold NaN or infinity."""
    odd = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if odd:
        raise UserError(f"{what} are not finite numbers (NaN or infinity): {listed(odd)}")


def is_buffer(name: str) -> bool:
    """Whether this is a BN running statistic: part of the weights, but not trained."""
    return name.endswith(BUFFER_SUFFIXES)


def decays(shape: tuple[int, ...]) -> bool:
    """Whether weight decay applies: to matrices and kernels, not to BN and biases."""
    return len(shape) > 1


def count_parameters(arch: Architecture) -> int:
    """Number of trained parameters, without running statistics."""
    return sum(math.prod(s) for name, s in weight_shapes(arch).items() if not is_buffer(name))


def count_macs(arch: Architecture, image_size: int = 224) -> int:
    """Multiply-accumulates of one image's forward pass, in convolutions and linear layers."""
    side = -(-image_size // 2)
    if arch.stem == "conv7":
        macs = side * side * 64 * 3 * 49
    else:
        macs = side * side * 9 * (32 * 3 + 32 * 32 + 64 * 32)
    side = -(-side // 2)
    for b in arch.blocks():
        out_side = -(-side // b.stride)
        macs += side * side * b.in_channels * b.width
        macs += out_side * out_side * b.width * b.width // arch.cardinality * 9
        macs += out_side * out_side * b.width * b.out_channels
        macs += 2 * b.out_channels * b.se_channels
        if b.has_downsample:
            macs += out_side * out_side * b.in_channels * b.out_channels
        side = out_side
    return macs + arch.num_features * arch.num_classes


def activation_bytes(arch: Architecture, image_size: int) -> int:
    """Memory of the forward pass of one image in float32: the most that any one block takes."""
    side = -(-image_size // 2)
    most = side * side * 2 * 64
    side = -(-side // 2)
    for b in arch.blocks():
        out_side = -(-side // b.stride)
        before = side * side * (b.in_channels + b.width)
        most = max(most, before + out_side * out_side * (b.width + 2 * b.out_channels))
        side = out_side
    return 4 * most
