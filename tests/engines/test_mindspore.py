"""The MindSpore engine: the contract, and what is its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

pytest.importorskip("seresnext.engines.mindspore.engine", reason="needs MindSpore")

from engines.contract import EngineContract
from seresnext.config import EngineConfig, OptimConfig
from seresnext.engines.base import Engine
from seresnext.engines.mindspore.engine import MindSporeEngine
from seresnext.model.spec import ModelSpec


class TestContract(EngineContract):
    def make_engine(
        self,
        spec: ModelSpec,
        weights: Mapping[str, np.ndarray],
        engine: EngineConfig,
        optim: OptimConfig | None,
    ) -> Engine:
        return MindSporeEngine(spec, weights, engine, optim)
