"""MindIR: the contract, and what is its own."""

from __future__ import annotations

import pytest

pytest.importorskip("seresnext.runtimes.mindir", reason="needs MindSpore")

from runtimes.contract import RuntimeContract


class TestContract(RuntimeContract):
    kind = "mindir"
    suffix = ".mindir"
    precisions = ("fp32",)
    preprocessing = False
