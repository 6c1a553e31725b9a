"""SE-ResNeXt image classifiers: train on PyTorch or MindSpore, deploy anywhere."""

import importlib.metadata
import os
from contextlib import suppress

__version__ = "0.1.0"

# MindSpore's protobuf code before 2.10 needs protobuf's Python implementation. That is chosen when
# protobuf is imported, which ONNX and TensorBoard may do before MindSpore is.
with suppress(importlib.metadata.PackageNotFoundError):
    if importlib.metadata.version("mindspore").startswith(("2.7.", "2.8.", "2.9.")):
        os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
