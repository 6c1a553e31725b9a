"""Arguments of a minimal training, shared by the tests of the commands."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]

TINY = ["--image_height", "32", "--image_width", "32", "--batch_size", "4"]
LAYERS = ["--", "--model.layers", "1", "1", "1", "1"]
