"""Configurations as JSON files, those of earlier versions included."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json
from ..schema import from_dict
from .config import Config
from .groups import DataConfig

_log = logging.getLogger(__name__)

_TYPED_IN = "typed_in"
"""Entry with the folder in which the command was given, where relative paths start."""
_MOVED = {
    ("optim", "label_smoothing"): "loss",
    ("optim", "smoothing_off_target"): "loss",
}
"""(group, field) of version 0.1 -> the group that has the field now."""


def load_config(path: str | Path) -> Config:
    """Read `config.json` of a run, or one written by hand. Raises UserError naming the field."""
    return from_dict(Config, upgraded(read_json(Path(path), "config"))).check()


def to_saved(config: Config) -> dict[str, Any]:
    """Return what `config.json` of a run holds: the settings as typed, and from where."""
    return {**asdict(config), _TYPED_IN: str(Path.cwd())}


def run_data(path: Path) -> DataConfig:
    """Return the data settings of the run that `path` is, or is a file or folder of.

    A relative path that leads nowhere from here starts where the run was started. The defaults for
    anything else, and, with a warning, where the run's settings are damaged.
    """
    for folder in (path, path.parent, path.parent.parent):
        file = folder / "config.json"
        if file.is_file() and ((folder / "model").is_dir() or (folder / "checkpoints").is_dir()):
            try:
                saved = read_json(file, "config")
                data = from_dict(Config, upgraded(saved)).check().data
                return _found(data, saved.get(_TYPED_IN))
            except UserError as error:
                _log.warning("the run's data settings are not used: %s", error)
                break
    return DataConfig()


def changed(data: DataConfig, **given: Any) -> DataConfig:
    """Return the settings with those that are given: None leaves a field as it is."""
    return replace(data, **{name: value for name, value in given.items() if value is not None})


def _found(data: DataConfig, typed_in: Any) -> DataConfig:
    """Return the settings with the paths that do not exist from here taken from `typed_in`."""
    if not isinstance(typed_in, str):
        return data

    def found(path: str) -> str:
        there = os.path.join(typed_in, path)
        return there if path and not os.path.exists(path) and os.path.exists(there) else path

    return replace(data, root=found(data.root), train=found(data.train), val=found(data.val))


def upgraded(data: Any) -> Any:
    """Return a configuration's plain data, fields of earlier versions moved to their new groups."""
    if not isinstance(data, dict):
        return data
    data = {
        name: dict(group) if isinstance(group, dict) else group
        for name, group in data.items()
        if name != _TYPED_IN
    }
    for (old, field), new in _MOVED.items():
        if isinstance(data.get(old), dict) and field in data[old]:
            data.setdefault(new, {}).setdefault(field, data[old].pop(field))
    return data
