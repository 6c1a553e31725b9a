"""1x1 convolutions with large kernels, in the form that is fastest on the CPU.

oneDNN's kernel for plain NCHW tensors multiplies image by image. With few pixels per image the
convolution's weights are read again for every few multiplications, and the gradient of the input is
slow where weights have a thousand rows, a power of two apart. Measured forward and backward, in CPU
time of 2 cores: 2048 -> 1024 channels at 1x1, 52 ms as a convolution and 8 ms as a product (batch
32); 1024 -> 2048 at 7x7, 155 and 82 ms (batch 16); 1024 -> 512 at 14x14, 118 ms as a convolution,
101 ms as a product, 72 ms with the gradient below.
"""

from __future__ import annotations

from mindspore import Parameter, nn
from mindspore.ops import operations as P
from mindspore.ops.operations import _grad_ops as G

LARGE = 512 * 1024
"""A kernel of this many weights or more is large."""
_FEW_PIXELS = 64

_reshape, _transpose = P.Reshape(), P.Transpose()


class Pointwise(nn.Cell):
    """A 1x1 convolution without bias, for training with static shapes."""

    def __init__(self, weight: Parameter, stride: int) -> None:
        super().__init__(auto_prefix=False)
        self.outputs, self.inputs = weight.shape[:2]
        # Not a slice: the CPU kernel of its gradient fails at odd sides (MindSpore 2.10).
        self.every_second = P.AvgPool(1, 2) if stride == 2 else None
        self.product = P.MatMul(transpose_b=True)
        self.convolution = _Convolution(self.outputs, self.inputs)

    def construct(self, x, weight):  # type: ignore[no-untyped-def]
        """[B, in, H, W] -> [B, out, H / stride, W / stride], rounded up."""
        if self.every_second is not None:
            x = self.every_second(x)
        height, width = x.shape[2:]
        if height * width > _FEW_PIXELS:
            return self.convolution(x, weight)
        rows = _reshape(_transpose(x, (0, 2, 3, 1)), (-1, self.inputs))
        rows = self.product(rows, _reshape(weight, (self.outputs, self.inputs)))
        return _transpose(_reshape(rows, (-1, height, width, self.outputs)), (0, 3, 1, 2))


class _Convolution(nn.Cell):
    """A 1x1 convolution whose input gradient is another convolution's forward pass."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__(auto_prefix=False)
        self.forth, self.back = P.Conv2D(outputs, 1), P.Conv2D(inputs, 1)
        self.of_weight = G.Conv2DBackpropFilter(outputs, 1, pad_mode="valid")

    def construct(self, x, weight):  # type: ignore[no-untyped-def]
        return self.forth(x, weight)

    def bprop(self, x, weight, out, dout):  # type: ignore[no-untyped-def]
        across = _transpose(weight, (1, 0, 2, 3))
        return self.back(dout, across), self.of_weight(dout, x, weight.shape)
