"""Parameters from and to arrays on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from numpy.typing import NDArray


def zeros(name: str, shape: tuple[int, ...]) -> Parameter:
    """Return a float32 parameter that is not trained."""
    return Parameter(np.zeros(shape, np.float32), name=name, requires_grad=False)


def to_arrays(parameters: Mapping[str, Parameter]) -> dict[str, NDArray[Any]]:
    """Return copies."""
    return {name: parameter.asnumpy().copy() for name, parameter in parameters.items()}


def load_arrays(parameters: Mapping[str, Parameter], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Copy the arrays of these names into the parameters."""
    for name, parameter in parameters.items():
        # Not `set_data`: a graph that has run keeps using the memory it had.
        ops.assign(parameter, Tensor(arrays[name], ms.float32))


def clear_arrays(parameters: Mapping[str, Parameter]) -> None:
    """Set the parameters to zero."""
    load_arrays(parameters, {name: np.zeros(p.shape) for name, p in parameters.items()})
