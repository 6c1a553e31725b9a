"""The configuration of a run: groups, recipes, reading and writing."""

from .config import SHORT_NAMES, Changes, Config
from .groups import (
    AugmentConfig,
    DataConfig,
    EngineConfig,
    EngineName,
    LossConfig,
    ModelConfig,
    OptimConfig,
    Precision,
    RunConfig,
    ScheduleConfig,
)
from .reading import changed, load_config, run_data, to_saved, upgraded
from .recipes import RECIPES, recipe

__all__ = [
    "RECIPES",
    "SHORT_NAMES",
    "AugmentConfig",
    "Changes",
    "Config",
    "DataConfig",
    "EngineConfig",
    "EngineName",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "Precision",
    "RunConfig",
    "ScheduleConfig",
    "changed",
    "load_config",
    "recipe",
    "run_data",
    "to_saved",
    "upgraded",
]
