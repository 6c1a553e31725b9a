"""Initial weights, drawn with NumPy so that all engines start from the same ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .architecture import Architecture, weight_shapes


def init_weights(arch: Architecture, seed: int) -> dict[str, NDArray[np.float32]]:
    """Canonical name -> float32 array.

    Convolutions: normal with variance 2 / fan_out, fan_out counted over the whole kernel as
    timm and torchvision do, groups ignored (He et al., arXiv:1502.01852, backward case). SE
    convolutions and the classifier: uniform in 1/sqrt(fan_in), torch's default for the layer.
    BN: weight 1, bias 0; the weight of a block's last BN is 0 with `zero_init_last_bn`.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0x5E5E]))
    weights: dict[str, NDArray[np.float32]] = {}
    for name, shape in weight_shapes(arch).items():
        if len(shape) > 1:
            fan_in = math.prod(shape[1:])
            if ".se." in name or name == "fc.weight":
                bound = 1 / math.sqrt(fan_in)
                value = rng.uniform(-bound, bound, shape).astype(np.float32)
            else:
                fan_out = shape[0] * math.prod(shape[2:])
                value = rng.standard_normal(shape, dtype=np.float32)
                value *= np.float32(math.sqrt(2 / fan_out))
        elif ".se." in name or name == "fc.bias":
            bound = 1 / math.sqrt(fan_in)  # of the weight just before it
            value = rng.uniform(-bound, bound, shape).astype(np.float32)
        elif name.endswith((".weight", ".running_var")):
            zero = arch.zero_init_last_bn and name.endswith("bn3.weight")
            value = np.full(shape, 0.0 if zero else 1.0, np.float32)
        else:
            value = np.zeros(shape, np.float32)
        weights[name] = value
    return weights
