"""The MindSpore engine: the contract, and what is its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("seresnext.engines.mindspore.engine", reason="needs MindSpore")

import mindspore as ms

from engines.contract import EngineContract, assert_close
from engines.losses import CASES, expected_distillation, expected_losses, random_rows
from engines.networks import optim_and_loss, random_batch, tiny_spec
from seresnext.config import EngineConfig, LossConfig, OptimConfig
from seresnext.engines.base import Engine
from seresnext.engines.mindspore import optimizer
from seresnext.engines.mindspore.engine import MindSporeEngine
from seresnext.engines.mindspore.loss import TrainingLoss
from seresnext.engines.mindspore.pointwise import Pointwise
from seresnext.engines.mindspore.reductions import Gate, mean_over_pixels
from seresnext.errors import UserError
from seresnext.model.init import init_weights
from seresnext.model.spec import ModelSpec


class TestContract(EngineContract):
    def make_engine(
        self,
        spec: ModelSpec,
        weights: Mapping[str, np.ndarray],
        engine: EngineConfig,
        optim: OptimConfig | None,
        loss: LossConfig | None = None,
    ) -> Engine:
        return MindSporeEngine(spec, weights, engine, optim, loss)


def tiny_engine(
    config: dict[str, Any] | None = None, optim: dict[str, Any] | None = None, **network: Any
) -> MindSporeEngine:
    spec = tiny_spec(**network)
    weights = init_weights(spec.architecture, 0)
    settings = EngineConfig(**{"device": "cpu", "threads": 1, **(config or {})})
    return MindSporeEngine(spec, weights, settings, *optim_and_loss(optim or {}))


def losses(engine: MindSporeEngine, steps: int = 12) -> list[float]:
    batch = random_batch(8)
    return [engine.fetch(engine.train_step(batch, 0.02))["loss"] for _ in range(steps)]


# Compilation -------------------------------------------------------------------------------

ms_compile_cache = sys.modules[ms.jit.__module__].ms_compile_cache
"""What has been compiled so far; its module has moved between versions."""


def test_nothing_is_compiled_twice() -> None:
    """Not for another learning rate, another batch, or another number of images to predict."""
    engine = tiny_engine()
    engine.train_step(random_batch(8), 0.1)
    engine.predict(random_batch(8).images)
    compiled = len(ms_compile_cache)
    for step in range(1, 4):
        engine.train_step(random_batch(8, seed=step), 0.1 / step)
        engine.predict(random_batch(8).images[:step])
    engine.load_state_dict(engine.state_dict())
    engine.train_step(random_batch(8), 0.3)
    assert len(ms_compile_cache) == compiled
    engine.train_step(random_batch(4), 0.1)
    assert len(ms_compile_cache) == compiled + 1  # or the count proves nothing


QUIET = """
import os, sys
sys.path.insert(0, {tests!r})
from engines.networks import optim_and_loss, random_batch, tiny_spec
from seresnext.config import EngineConfig, LossConfig, OptimConfig
from seresnext.engines.base import create_engine
from seresnext.model.init import init_weights
spec = tiny_spec()
weights = init_weights(spec.architecture, 0)
engine = create_engine(spec, weights, EngineConfig(name="mindspore"), OptimConfig())
engine.fetch(engine.train_step(random_batch(4), 0.1))
engine.close()
assert "torch" not in sys.modules
assert not [name for name in os.environ if "MAX_CPU_ISA" in name]
"""


def test_a_process_of_its_own(tmp_path: Path) -> None:
    """As users run it: no warning, no chatter, no file left behind, no slow reference kernel."""
    code = QUIET.format(tests=str(Path(__file__).parents[1]))
    environment = {k: v for k, v in os.environ.items() if k != "GLOG_v"}
    environment |= {"ONEDNN_VERBOSE": "1", "DNNL_VERBOSE": "1"}  # new and old name
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    kernels = [
        line.partition(",convolution,")[2].split(",")[0]
        for line in lines
        if ",exec," in line and ",convolution," in line
    ]
    assert len(kernels) > 40
    assert not [kernel for kernel in kernels if "ref" in kernel]
    assert all(line.startswith(("onednn_verbose", "dnnl_verbose")) for line in lines), lines[-5:]
    assert not list(tmp_path.iterdir())


# Precision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fp16_batch_norm", [False, True], ids=["O2", "O3"])
def test_half_precision(fp16_batch_norm: bool) -> None:
    """Learns, with weights in float32, and computes in something coarser."""
    half = tiny_engine({"precision": "fp16", "fp16_batch_norm": fp16_batch_norm})
    images = random_batch(4).images
    expected = tiny_engine().predict(images)
    error = np.abs(half.predict(images) - expected).max() / np.abs(expected).max()
    assert 1e-5 < error < 2e-2
    record = losses(half)
    assert record[-1] < 0.6 * record[0]
    assert {v.dtype for v in half.state_dict().model.values()} == {np.dtype(np.float32)}


def test_bfloat16_is_refused_on_the_cpu() -> None:
    with pytest.raises(UserError, match="no bfloat16 convolution on the CPU; use fp32 or fp16"):
        tiny_engine({"precision": "bf16"})


def test_auto_is_float32() -> None:
    engine = tiny_engine({"precision": "auto"})
    assert (engine.precision, engine.precision_reason) == ("fp32", "MindSpore does not measure it")


def test_loss_scale_follows_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "LOSS_SCALE_GROWTH_STEPS", 3)
    engine = tiny_engine({"precision": "fp16"})
    bad = replace(random_batch(8), mix=np.full(8, np.inf, np.float32))
    scales = []
    for batch in (bad, *[random_batch(8)] * 4, bad, random_batch(8)):
        engine.train_step(batch, 0.01)
        scalars = engine.state_dict().scalars
        scales.append((scalars["loss_scale"] / 65536, scalars["good_steps"]))
    assert scales == [(0.5, 0), (0.5, 1), (0.5, 2), (1, 0), (1, 1), (0.5, 0), (0.5, 1)]
    state = engine.state_dict()
    state.scalars |= {"loss_scale": 2.0**12, "good_steps": 1.0}
    engine.load_state_dict(state)
    assert engine.state_dict().scalars == state.scalars
    engine.train_step(random_batch(8), 0.01)
    assert engine.state_dict().scalars["good_steps"] == 2


@pytest.mark.slow
def test_a_fixed_loss_scale_stays_and_cancels() -> None:
    momenta = []
    for scale in (128.0, 1024.0):
        engine = tiny_engine({"precision": "fp16", "loss_scale": scale})
        engine.train_step(random_batch(8), 0.01)
        assert engine.state_dict().scalars == {"updates": 1}
        momenta.append(engine.state_dict().optimizer["momentum"])
    assert_close(*momenta, 2e-2)


# Settings it cannot have -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"device": "cuda"}, "engine.device: expected auto, cpu, ascend or ascend:N, got 'cuda'"),
        ({"device": "cpu:1"}, "engine.device: expected auto, cpu"),
        ({"device": "ascend:x"}, "engine.device: expected auto, cpu"),
        ({"device": "ascend:7"}, "ascend:7 was asked for, but MindSpore"),
        ({"threads": 3}, "already runs with 1 threads"),
    ],
)
def test_refused(config: dict[str, Any], message: str) -> None:
    tiny_engine()
    with pytest.raises(UserError, match=re.escape(message)):
        tiny_engine(config)


# Losses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_losses_of_rows(options: dict[str, Any]) -> None:
    """Against the papers' formulas in float64, extreme logits included; finite gradients."""
    rows, loss = random_rows(), LossConfig(**options)
    network = SimpleNamespace(arch=SimpleNamespace(num_classes=rows.logits.shape[1]))
    function = TrainingLoss(network, None, loss)
    tensors = [ms.Tensor(array) for array in rows]
    ours = function.row_losses(*tensors).asnumpy()
    np.testing.assert_allclose(ours, expected_losses(rows, loss), rtol=1e-5, atol=1e-5)
    gradient = ms.grad(lambda *tensors: function.row_losses(*tensors).sum())(*tensors)
    assert np.isfinite(gradient.asnumpy()).all()


def test_distillation() -> None:
    logits = random_rows().logits
    teacher = np.roll(logits, 1, axis=0)
    network = SimpleNamespace(arch=SimpleNamespace(num_classes=logits.shape[1]))
    function = TrainingLoss(network, None, LossConfig(teacher="x", temperature=4.0))
    ours = function.distillation(ms.Tensor(logits), ms.Tensor(teacher)).asnumpy()
    expected = expected_distillation(logits, teacher, 4.0)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


# Sums --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 8, 1, 1)])
def test_gate_and_means_against_numpy(shape: tuple[int, ...]) -> None:
    """Values and both gradients, in float64."""
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    gate = rng.normal(size=shape[:2]).astype(np.float32)
    scale = Gate()

    def weighted(x, gate, weight):  # type: ignore[no-untyped-def]
        return (scale(x, gate) * weight).sum() + mean_over_pixels(x).sum()

    gradient = ms.grad(weighted, (0, 1))
    dx, dgate = (g.asnumpy() for g in gradient(*map(ms.Tensor, (x, gate, weight))))
    pixels = shape[2] * shape[3]
    w = weight.astype(np.float64)
    np.testing.assert_allclose(dx, gate[..., None, None] * w + 1 / pixels, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dgate, (x * w).sum((2, 3)), rtol=1e-5, atol=1e-5)
    means = mean_over_pixels(ms.Tensor(x)).asnumpy()
    np.testing.assert_allclose(means, x.mean((2, 3), dtype=np.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 9, 20])
def test_pointwise_convolution_against_numpy(side: int, stride: int) -> None:
    """Few pixels and many, even and odd: values and both gradients, in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 16, side, side)).astype(np.float32)
    kernel = rng.normal(size=(24, 16, 1, 1)).astype(np.float32)
    picked = x[:, :, ::stride, ::stride].astype(np.float64)
    expected = np.einsum("oi,bihw->bohw", kernel[:, :, 0, 0], picked)
    weight = rng.normal(size=expected.shape).astype(np.float32)
    convolution = Pointwise(ms.Parameter(ms.Tensor(kernel), name="kernel"), stride)

    def weighted(x, kernel, weight):  # type: ignore[no-untyped-def]
        return (convolution(x, kernel) * weight).sum()

    arrays = [ms.Tensor(a) for a in (x, kernel, weight)]
    dx, dkernel = (g.asnumpy() for g in ms.grad(weighted, (0, 1))(*arrays))
    value = convolution(*arrays[:2]).asnumpy()
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    expected_dx = np.zeros(x.shape)
    expected_dx[:, :, ::stride, ::stride] = np.einsum(
        "oi,bohw->bihw", kernel[:, :, 0, 0], weight.astype(np.float64)
    )
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-4, atol=1e-5)
    expected_dkernel = np.einsum("bohw,bihw->oi", weight.astype(np.float64), picked)
    np.testing.assert_allclose(dkernel[:, :, 0, 0], expected_dkernel, rtol=1e-4, atol=1e-4)
