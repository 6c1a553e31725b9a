"""The PyTorch engine: the contract, and what is its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch

from engines.contract import EngineContract
from seresnext.config import EngineConfig, OptimConfig
from seresnext.engines.base import Engine
from seresnext.engines.torch.engine import TorchEngine
from seresnext.model.spec import ModelSpec


@pytest.fixture(autouse=True, scope="module")
def keep_threads() -> Iterator[None]:
    """Engines set the number of threads of the process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class TestContract(EngineContract):
    def make_engine(
        self,
        spec: ModelSpec,
        weights: Mapping[str, np.ndarray],
        engine: EngineConfig,
        optim: OptimConfig | None,
    ) -> Engine:
        return TorchEngine(spec, weights, engine, optim)
