"""What the tests of the commands share: the smallest training there is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]

TINY = ["--image_height", "32", "--image_width", "32", "--batch_size", "4"]
LAYERS = ["--", "--model.layers", "1", "1", "1", "1"]
