"""Configurations as JSON files, those of earlier versions included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import read_json
from ..schema import from_dict
from .config import Config

_MOVED = {
    ("optim", "label_smoothing"): "loss",
    ("optim", "smoothing_off_target"): "loss",
}
"""(group, field) of version 0.1 -> the group that has the field now."""


def load_config(path: str | Path) -> Config:
    """Read `config.json` of a run, or one written by hand. Raises UserError naming the field."""
    return from_dict(Config, upgraded(read_json(Path(path), "config"))).check()


def upgraded(data: Any) -> Any:
    """Return a configuration's plain data, fields of earlier versions moved to their new groups."""
    if not isinstance(data, dict):
        return data
    data = {name: dict(group) if isinstance(group, dict) else group for name, group in data.items()}
    for (old, field), new in _MOVED.items():
        if isinstance(data.get(old), dict) and field in data[old]:
            data.setdefault(new, {}).setdefault(field, data[old].pop(field))
    return data
