"""SE-ResNeXt image classifiers: train on PyTorch or MindSpore, deploy anywhere.

    import seresnext

    model = seresnext.load("runs/mine")
    print(model.predict("cat.jpg", top=3))

The names in `__all__` are public; importing the package loads no framework.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Model, TrainResult, export, load, train
    from .config import Config, recipe
    from .errors import UserError
    from .evaluate import Difference, Evaluation
    from .exporters.report import ExportReport
    from .predict import Prediction
    from .training.interrupt import Interrupted
    from .training.metrics import Metrics
    from .weights.convert import convert

__version__ = "0.2.0"

__all__ = [
    "Config",
    "Difference",
    "Evaluation",
    "ExportReport",
    "Interrupted",
    "Metrics",
    "Model",
    "Prediction",
    "TrainResult",
    "UserError",
    "__version__",
    "convert",
    "export",
    "load",
    "recipe",
    "train",
]

_MODULES = {
    "Config": "config",
    "Difference": "evaluate",
    "Evaluation": "evaluate",
    "ExportReport": "exporters.report",
    "Interrupted": "training.interrupt",
    "Metrics": "training.metrics",
    "Prediction": "predict",
    "UserError": "errors",
    "convert": "weights.convert",
    "recipe": "config",
}
"""Public name -> the module that it is loaded from at its first use; the others are in `api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'seresnext' has no attribute {name!r}")
    module = importlib.import_module(f".{_MODULES.get(name, 'api')}", __name__)
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return __all__


def _is_installed(*distributions: str) -> bool:
    """Whether one of these is installed, told from the folders' names: `importlib.metadata` would
    take half of the time that importing this package may take."""
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        if any(n.startswith(distributions) and n.endswith(".dist-info") for n in names):
            return True
    return False


# MindSpore's protobuf code before 2.10 needs protobuf's Python implementation. That is chosen when
# protobuf is first imported, which ONNX and TensorBoard may do before MindSpore does.
if _is_installed("mindspore-2.7.", "mindspore-2.8.", "mindspore-2.9."):
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
