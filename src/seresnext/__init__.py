"""SE-ResNeXt image classifiers: train on PyTorch or MindSpore, deploy anywhere."""

__version__ = "0.1.0"
