"""AdamW, LAMB, frozen stages and BN statistics in the PyTorch engine; test_parity.py compares the
MindSpore engine with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engines.contract import assert_close, assert_same_bits, norm
from engines.networks import optim_and_loss, random_batch, tiny_spec
from seresnext.config import EngineConfig
from seresnext.engines.base import EngineState, Tensors
from seresnext.engines.torch.engine import TorchEngine
from seresnext.engines.trained import trained_groups
from seresnext.model.architecture import is_buffer
from seresnext.model.init import init_weights
from seresnext.model.stages import stage_of

LR = 0.01
ADAPTIVE: dict[str, dict[str, Any]] = {
    "adamw": {"name": "adamw", "weight_decay": 0.1, "layer_decay": 0.5, "clip_norm": 0.5},
    "lamb": {"name": "lamb", "weight_decay": 0.1, "freeze": "stem..layer2", "betas": (0.8, 0.95)},
}
every_rule = pytest.mark.parametrize("options", ADAPTIVE.values(), ids=ADAPTIVE)


@pytest.fixture(autouse=True, scope="module")
def keep_threads() -> Iterator[None]:
    """Engines set the number of threads of the process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def make_engine(options: dict[str, Any], **config: Any) -> TorchEngine:
    spec = tiny_spec()
    settings = EngineConfig(**{"device": "cpu", "threads": 1, **config})
    # A small eps would enlarge the difference of small gradients in float32 and float64.
    chosen = optim_and_loss({"eps": 1e-3, "label_smoothing": 0.0} | options)
    return TorchEngine(spec, init_weights(spec.architecture, 0), settings, *chosen)


def gradients(options: dict[str, Any], model: Tensors, seed: int) -> Tensors:
    """Of the loss at these weights: SGD's momentum after a first step, without decay."""
    plain = {"freeze": options.get("freeze", ""), "weight_decay": 0.0}
    engine = make_engine(plain)
    engine.load_state_dict(EngineState(model))
    engine.train_step(random_batch(8, seed), 0.0)
    return engine.state_dict().optimizer["momentum"]


@pytest.mark.parametrize("wrong", [{}, {"weight_decay": 0.2}], ids=str)
@every_rule
def test_updates_as_in_the_papers(options: dict[str, Any], wrong: dict[str, Any]) -> None:
    """arXiv:1711.05101, algorithm 2, and arXiv:1904.00962, algorithm 2, in float64."""
    engine = make_engine(options | wrong)
    optim, _ = optim_and_loss({"eps": 1e-3} | options)
    start = engine.state_dict().model
    weights = {k: v.astype(np.float64) for k, v in start.items() if not is_buffer(k)}
    mean, square = ({k: np.zeros(v.shape) for k, v in weights.items()} for _ in range(2))
    close = []
    for t in (1, 2, 3):
        gradient = gradients(options, engine.state_dict().model, seed=t)
        engine.train_step(random_batch(8, seed=t), LR)
        clip = min(1.0, optim.clip_norm / norm(gradient)) if optim.clip_norm else 1.0
        for group in trained_groups(tiny_spec().architecture, optim):
            lr = LR * group.rate
            for k in group.names:
                g = gradient[k].astype(np.float64) * clip
                mean[k] += (1 - optim.betas[0]) * (g - mean[k])
                square[k] += (1 - optim.betas[1]) * (g**2 - square[k])
                m = mean[k] / (1 - optim.betas[0] ** t)
                v = square[k] / (1 - optim.betas[1] ** t)
                update = m / (np.sqrt(v) + optim.eps)
                if optim.name == "adamw":
                    weights[k] *= 1 - lr * group.weight_decay
                elif group.weight_decay:
                    update += group.weight_decay * weights[k]
                    update *= np.linalg.norm(weights[k]) / np.linalg.norm(update)
                weights[k] -= lr * update
        state = engine.state_dict()
        pairs = ((state.model, weights), (state.optimizer["exp_avg"], mean))
        for found, expected in (*pairs, (state.optimizer["exp_avg_sq"], square)):
            try:
                assert_close({k: found[k] for k in expected}, expected, 2e-4)
            except AssertionError:
                close.append(False)
    assert (not close) == (not wrong)


@every_rule
def test_a_step_that_is_not_finite_leaves_no_trace(options: dict[str, Any]) -> None:
    """As the first step, and later; with the kernel that is told so on the device, and without."""
    for fused in (True, False):
        engines = [make_engine(options) for _ in range(2)]
        for engine in engines:
            engine._step.optimizer.use_fused(fused)
        bad = replace(random_batch(8), mix=np.full(8, np.nan, np.float32))
        assert engines[0].fetch(engines[0].train_step(bad, LR))["finite"] == 0.0
        for seed in (1, 2):
            for engine in engines:
                engine.train_step(random_batch(8, seed), LR)
            engines[0].train_step(bad, LR)
        assert_same_bits(*(engine.state_dict() for engine in engines))


@every_rule
def test_a_loaded_state_goes_on_to_the_bit(options: dict[str, Any]) -> None:
    engine = make_engine(options)
    states = []
    for seed in range(4):
        engine.train_step(random_batch(8, seed), LR)
        states.append(engine.state_dict())
    assert states[0].optimizer.keys() == {"exp_avg", "exp_avg_sq"}
    other = make_engine(options)
    other.load_state_dict(states[1])
    assert_same_bits(other.state_dict(), states[1])
    for seed in (2, 3):
        other.train_step(random_batch(8, seed), LR)
    assert_same_bits(other.state_dict(), states[3])


def test_without_a_fused_kernel_adamw_is_the_same() -> None:
    """torch's kernels tensor by tensor, which count steps on their own."""
    states = []
    for fused in (True, False):
        engine = make_engine(ADAPTIVE["adamw"])
        engine._step.optimizer.use_fused(fused)
        for seed in range(3):
            engine.train_step(random_batch(8, seed), LR)
        states.append(engine.state_dict().model)
    assert_close(*states, 1e-4)


# Frozen parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze_bn", [False, True])
@pytest.mark.parametrize(("name", "config"), [("sgd", {}), ("lamb", {"virtual_shards": 3})])
def test_what_is_frozen_stays(name: str, freeze_bn: bool, config: dict[str, Any]) -> None:
    """To the bit, weight decay and averages of three shards notwithstanding; the rest moves."""
    options = {"name": name, "freeze": "stem..layer2", "freeze_bn": freeze_bn, "weight_decay": 0.1}
    engine = make_engine(options, **config)
    before = engine.state_dict().model
    rng = np.random.default_rng(0)
    for tensor in before.values():
        if tensor.ndim == 1:  # no BN weight is 0, and three times some statistic is rounded
            tensor += rng.uniform(0, 0.2, tensor.shape).astype(np.float32)
    engine.load_state_dict(EngineState(before))
    for seed in range(2):
        engine.train_step(random_batch(6, seed), 0.1)
    after = engine.state_dict().model
    stays = {k for k, v in before.items() if (v == after[k]).all()}
    assert stays == {
        k
        for k in before
        if stage_of(k) in ("stem", "layer1", "layer2") or (freeze_bn and is_buffer(k))
    }


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_frozen_statistics_normalise_as_in_evaluation(freeze_bn: bool) -> None:
    """The training loss is then that of the logits of `predict`."""
    engine = make_engine({"freeze_bn": freeze_bn})
    batch = random_batch(8)
    loss = engine.fetch(engine.train_step(batch, 0.0))["loss"]
    logits = engine.predict(batch.images).astype(np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    expected = -log_p[np.arange(8), batch.labels].mean()
    assert (loss == pytest.approx(expected, rel=1e-4)) == freeze_bn


def test_frozen_layers_cost_no_backward_pass() -> None:
    engine = make_engine({"freeze": "stem..layer4"})
    engine.train_step(random_batch(8), LR)
    network = engine._step.loss.network
    graded = [name for name, p in network.named_parameters() if p.grad is not None]
    assert graded == ["fc.weight", "fc.bias"]


def test_a_run_goes_on_with_other_stages_frozen() -> None:
    """Momentum of frozen weights is in the state as zeros."""
    frozen, whole = make_engine({"freeze": "stem..layer3"}), make_engine({})
    frozen.train_step(random_batch(8), LR)
    state = frozen.state_dict()
    assert not state.optimizer["momentum"]["conv1.weight"].any()
    whole.load_state_dict(state)
    whole.train_step(random_batch(8), LR)
    assert (whole.state_dict().model["conv1.weight"] != state.model["conv1.weight"]).any()
