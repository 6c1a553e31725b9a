"""The PyTorch engine: the contract, and what is its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from engines.contract import EngineContract
from engines.losses import CASES, Rows, expected_distillation, expected_losses, random_rows
from engines.networks import optim_and_loss, random_batch, tiny_spec
from seresnext.config import EngineConfig, LossConfig, OptimConfig
from seresnext.engines.base import Engine
from seresnext.engines.common import World
from seresnext.engines.torch import optimizer, precision
from seresnext.engines.torch.devices import resolve_device
from seresnext.engines.torch.engine import TorchEngine
from seresnext.engines.torch.flat import Flat
from seresnext.engines.torch.loss import Normalise, RowLoss, distillation
from seresnext.engines.torch.network import load_network
from seresnext.errors import UserError
from seresnext.model.init import init_weights
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
        loss: LossConfig | None = None,
    ) -> Engine:
        return TorchEngine(spec, weights, engine, optim, loss)


def tiny_engine(
    config: dict | None = None, optim: dict | None = None, **network: object
) -> TorchEngine:
    spec = tiny_spec(**network)
    weights = init_weights(spec.architecture, 0)
    settings = EngineConfig(**{"device": "cpu", "threads": 1, **(config or {})})
    return TorchEngine(spec, weights, settings, *optim_and_loss(optim or {}))


def losses(engine: TorchEngine, steps: int = 5) -> np.ndarray:
    batch = random_batch(8)
    return np.array([engine.fetch(engine.train_step(batch, 0.01))["loss"] for _ in range(steps)])


# Devices and settings ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "expected auto, cpu, cuda, cuda:N, npu, npu:N or mps, got 'gpu'"),
        ("cuda:x", "expected auto"),
        ("cuda", "cuda was asked for, but .*; use cpu"),
        ("cuda:3", "cuda:3 was asked for, but"),
        ("npu", "npu was asked for, but torch_npu is not installed"),
        ("mps", "mps was asked for, but no mps device"),
    ],
)
def test_a_device_that_is_not_there(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delattr(torch, "npu", raising=False)
    with pytest.raises(UserError, match=rf"engine\.device: {message}"):
        resolve_device(name, 0, 1)


def test_devices_of_a_machine_with_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto", 0, 1) == torch.device("cuda", 0)
    assert resolve_device("auto", 1, 2) == torch.device("cuda", 1)
    assert resolve_device("cuda:1", 0, 1) == torch.device("cuda", 1)
    assert resolve_device("cpu", 1, 2) == torch.device("cpu")
    with pytest.raises(UserError, match=r"cuda:2 was asked for, but this machine has 2 "):
        resolve_device("cuda:2", 0, 1)
    with pytest.raises(UserError, match=r"cuda:1 names one device for 2 processes; use cuda"):
        resolve_device("cuda:1", 0, 2)
    with pytest.raises(UserError, match=r"cuda:2 was asked for, but this machine has 2 "):
        resolve_device("cuda", 2, 3)


def test_threads() -> None:
    assert tiny_engine({"threads": 2}).device == "cpu (2 threads)"
    assert tiny_engine({"threads": 0, "virtual_shards": 2}).device == "cpu (1 thread)"


def test_a_batch_that_does_not_divide() -> None:
    engine = tiny_engine({"virtual_shards": 3})
    with pytest.raises(UserError, match=r"run\.batch_size: 8 images .* into 3 equal pieces"):
        engine.train_step(random_batch(8), 0.1)


def test_averages_in_the_checkpoint_but_not_in_the_configuration() -> None:
    state = tiny_engine(optim={"ema_decay": 0.9}).state_dict()
    with pytest.raises(UserError, match=r"averaged weights, but optim\.ema_decay is 0"):
        tiny_engine().load_state_dict(state)


def test_averages_begin_where_a_run_without_them_stood() -> None:
    plain, averaging = tiny_engine(), tiny_engine(optim={"ema_decay": 0.9})
    losses(plain, 1)
    averaging.load_state_dict(plain.state_dict())
    state = averaging.state_dict()
    assert all((state.ema[k] == v).all() for k, v in state.model.items())


# Precision, layout, compilation ------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [
        ({"channels_last": False}, 1e-3),
        ({"precision": "bf16"}, 0.1),
        ({"precision": "fp16"}, 0.02),
        pytest.param({"precision": "fp16", "loss_scale": 1024.0}, 0.02, marks=pytest.mark.slow),
        pytest.param({"compile": True}, 1e-3, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_same_curve_however_it_is_computed(config: dict, tolerance: float) -> None:
    optim = {"clip_norm": 5.0, "ema_decay": 0.9}
    reference = losses(tiny_engine(optim=optim))
    engine = tiny_engine(config, optim)
    np.testing.assert_allclose(losses(engine), reference, rtol=tolerance, atol=tolerance)
    assert {v.dtype for v in engine.state_dict().model.values()} == {np.dtype(np.float32)}
    assert engine.predict(random_batch(2).images).dtype == np.float32


def test_reduced_precision_is_used() -> None:
    full, half = (tiny_engine({"precision": p}) for p in ("fp32", "bf16"))
    images = random_batch(4).images
    difference = np.abs(full.predict(images) - half.predict(images)).max()
    assert 1e-5 < difference < 0.1


@pytest.mark.parametrize(
    ("bf16", "seconds", "expected", "reason"),
    [
        (True, (2.0, 1.0), "bf16", "takes 2 s in fp32 and 1 s in bf16 (2.00x as fast)"),
        (True, (1.05, 1.0), "fp32", "1.05x as fast; 1.1x is needed"),
        (True, (1.0, 8.0), "fp32", "0.12x as fast"),
        (False, None, "fp32", "this cpu has no bfloat16"),
    ],
)
def test_a_measurement_decides_the_precision(
    bf16: bool,
    seconds: tuple[float, float] | None,
    expected: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda _: bf16)
    monkeypatch.setattr(precision, "step_seconds", lambda *_: seconds)
    engine = tiny_engine({"precision": "auto"})
    assert engine.precision == expected
    assert reason in engine.precision_reason
    images = random_batch(4).images
    np.testing.assert_array_equal(
        engine.predict(images), tiny_engine({"precision": expected}).predict(images)
    )


def test_the_measurement_takes_both_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_SECONDS", 0.0)
    spec, asked = tiny_spec(), []
    weights, config = init_weights(spec.architecture, 0), EngineConfig(device="cpu", threads=1)
    kept = {name: array.copy() for name, array in weights.items()}
    autocast = torch.autocast
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda kind, dtype, enabled: asked.append(dtype) or autocast(kind, dtype, enabled=enabled),
    )
    times = precision.step_seconds(config, spec, weights, torch.device("cpu"), 4)
    assert min(times) > 0
    assert asked == 4 * [None, torch.bfloat16]
    assert all((kept[name] == array).all() for name, array in weights.items())


def test_rank_0_decides_the_precision_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "broadcast", lambda number, _: number.fill_(1))
    spec, config = tiny_spec(), EngineConfig(device="cpu", precision="auto")
    rank = World(rank=1, size=2, local_rank=1, local_size=2)
    choice = precision.settle(config, spec, {}, torch.device("cpu"), rank, trains=True)
    assert choice == ("bf16", "")


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


def test_loss_scale_is_restored() -> None:
    engine = tiny_engine({"precision": "fp16"})
    losses(engine, 2)
    state = engine.state_dict()
    state.scalars |= {"loss_scale": 2.0**20, "good_steps": 7.0}
    engine.load_state_dict(state)
    assert engine.state_dict().scalars == {"updates": 2, "loss_scale": 2.0**20, "good_steps": 7}
    assert losses(engine, 1) > 0


def test_a_fixed_loss_scale_stays() -> None:
    engine = tiny_engine({"precision": "fp16", "loss_scale": 1024.0})
    engine.train_step(replace(random_batch(8), mix=np.full(8, np.inf, np.float32)), 0.01)
    assert engine.state_dict().scalars == {"updates": 0}


def test_a_gradient_that_overflows_behind_a_finite_loss() -> None:
    engine = tiny_engine({"precision": "fp16", "loss_scale": 1e30})
    before = engine.state_dict()
    record = engine.fetch(engine.train_step(random_batch(8), 0.01))
    assert np.isfinite(record["loss"])
    assert record["finite"] == 0.0
    after = engine.state_dict()
    assert all((after.model[k] == v).all() for k, v in before.model.items())


def test_without_a_fused_kernel() -> None:
    """Devices that have none wait for the verdict and update tensor by tensor."""
    optim = {"clip_norm": 0.5, "nesterov": True}
    fused, waiting = tiny_engine(optim=optim), tiny_engine(optim=optim)
    waiting._step.optimizer.use_fused(False)
    np.testing.assert_allclose(losses(waiting), losses(fused), rtol=1e-4)
    before = waiting.state_dict()
    bad = replace(random_batch(8), mix=np.full(8, np.nan, np.float32))
    assert waiting.fetch(waiting.train_step(bad, 0.1))["finite"] == 0.0
    after = waiting.state_dict()
    momentum = after.optimizer["momentum"]
    assert all((momentum[k] == v).all() for k, v in before.optimizer["momentum"].items())
    assert after.scalars == before.scalars == {"updates": 5}


def test_folding_batch_norm_changes_nothing() -> None:
    """`predict` against the network as it is, whose evaluation timm's parity tests hold."""
    for network in ({}, {"stem": "deep", "downsample": "avg", "max_pool": "same"}):
        engine = tiny_engine(optim={"ema_decay": 0.5}, **network)
        losses(engine, 3)
        images = random_batch(4).images
        normalise = Normalise(
            engine.spec.input.mean, engine.spec.input.std, torch.device("cpu"), True
        )
        plain = load_network(engine.spec.architecture, engine.state_dict().ema)
        with torch.inference_mode():
            expected = plain(normalise(torch.from_numpy(images))).numpy()
        np.testing.assert_allclose(engine.predict(images), expected, rtol=1e-4, atol=1e-5)


# Pieces ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [32, 33, 46])
def test_same_padding_of_the_max_pool(side: int) -> None:
    """TensorFlow's rule written out: pad to ceil(n / 2) windows, the odd pixel at the end."""
    network = load_network(
        tiny_spec(max_pool="same").architecture, init_weights(tiny_spec().architecture, 0)
    )
    x = torch.randn(2, 3, side, side + 1, generator=torch.Generator().manual_seed(0))
    pads: list[int] = []
    for n in (x.shape[3], x.shape[2]):
        total = max((math.ceil(n / 2) - 1) * 2 + 3 - n, 0)
        pads += [total // 2, total - total // 2]
    expected = F.max_pool2d(F.pad(x, pads, value=-math.inf), 3, 2)
    assert torch.equal(network._max_pool(x), expected)
    assert expected.shape[2:] == (math.ceil(side / 2), math.ceil((side + 1) / 2))


@pytest.mark.parametrize("channels_last", [True, False])
def test_normalisation(channels_last: bool) -> None:
    images = random_batch(2).images
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    normalise = Normalise(mean, std, torch.device("cpu"), channels_last)
    expected = ((images / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    x = normalise(torch.from_numpy(images))
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-6, atol=1e-6)
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert x.is_contiguous(memory_format=wanted)


def row_losses(rows: Rows, loss: LossConfig) -> torch.Tensor:
    logits, *labels, mix = map(torch.tensor, rows)
    row_loss = RowLoss(loss, logits.shape[1], torch.device("cpu"))
    return row_loss(logits, tuple(labels), mix)


@pytest.mark.parametrize("off", [0.0, 1e-3], ids=["equal", "perturbed"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_losses_of_rows(options: dict, off: float) -> None:
    """Against the papers' formulas in float64, extreme logits included."""
    rows, loss = random_rows(), LossConfig(**options)
    ours = row_losses(rows._replace(mix=rows.mix * (1 - off)), loss)
    close = np.allclose(ours.numpy(), expected_losses(rows, loss), rtol=1e-5, atol=1e-6)
    assert close == (off == 0 or loss.threshold is not None)


def test_losses_against_those_of_torch() -> None:
    """Its targets are indices or probabilities; weights are `weight` and `pos_weight`."""
    rows, weights = random_rows(), (0.5, 1.0, 2.5, 0.25)
    logits, first, second, mix = map(torch.tensor, rows)
    one_hot = (F.one_hot(labels.long(), 4) for labels in (first, second))
    target = sum(h * m[:, None] for h, m in zip(one_hot, (mix, 1 - mix), strict=True))
    ours = row_losses(rows, LossConfig(class_weights=weights))
    theirs = F.cross_entropy(
        logits, target, torch.tensor(weights), reduction="none", label_smoothing=0.1
    )
    torch.testing.assert_close(ours, theirs)
    loss = LossConfig(kind="binary", class_weights=weights, label_smoothing=0.0)
    theirs = F.binary_cross_entropy_with_logits(
        logits, target, reduction="none", pos_weight=torch.tensor(weights)
    )
    torch.testing.assert_close(row_losses(rows, loss), theirs.mean(1))


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_gradients_of_losses(options: dict) -> None:
    """Finite, also where a probability is 1 to the last bit; right where it is not."""
    rows, loss = random_rows(), LossConfig(**options)
    logits, *labels, mix = map(torch.tensor, rows)
    row_loss = RowLoss(loss, logits.shape[1], torch.device("cpu"))
    extreme = logits.requires_grad_()
    row_loss(extreme, tuple(labels), mix).sum().backward()
    assert extreme.grad is not None
    assert torch.isfinite(extreme.grad).all()
    usual = logits.detach()[1:].double().requires_grad_()
    arguments = (tuple(k[1:] for k in labels), mix[1:].double())
    if row_loss.weights is not None:
        row_loss.weights = row_loss.weights.double()
    assert torch.autograd.gradcheck(lambda x: row_loss(x, *arguments), usual)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation(temperature: float) -> None:
    """The paper's formula in float64, and torch's own divergence; of a right answer it is 0."""
    logits = random_rows().logits
    teacher = np.roll(logits, 1, axis=0)
    ours = distillation(*map(torch.tensor, (logits, teacher)), temperature)
    expected = expected_distillation(logits, teacher, temperature)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-5)
    wrong = expected_distillation(teacher, logits, temperature)
    assert not np.allclose(ours.numpy(), wrong, rtol=1e-2)
    log_p, log_q = (F.log_softmax(torch.tensor(x) / temperature, 1) for x in (teacher, logits))
    theirs = temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(ours, theirs)
    assert distillation(*map(torch.tensor, (logits, logits)), temperature).abs().max() < 1e-6


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_teacher_has_its_share_of_the_loss(share: float) -> None:
    """Of rows with an image; by the logits of `predict`, which frozen statistics give."""
    chosen = optim_and_loss(
        {"freeze_bn": True, "teacher": "x", "teacher_share": share, "temperature": 2.0}
    )
    spec = tiny_spec()
    weights = init_weights(spec.architecture, 0)
    engine = TorchEngine(spec, weights, EngineConfig(device="cpu", threads=1), *chosen)
    batch = random_batch(8)
    teacher = np.random.default_rng(0).normal(0, 2, (8, 5)).astype(np.float32)
    batch = replace(batch, teacher=teacher, mask=np.arange(8) < 6)
    logits = engine.predict(batch.images)
    found = engine.fetch(engine.train_step(batch, 0.0))["loss"]
    hard = expected_losses(Rows(logits, batch.labels, batch.labels, batch.mix), chosen[1])
    soft = expected_distillation(logits, teacher, 2.0)
    expected = ((1 - share) * hard + share * soft)[:6].mean()
    assert found == pytest.approx(expected, rel=1e-4)
    assert found != pytest.approx(hard[:6].mean(), rel=1e-2)


def test_flat_layout() -> None:
    shapes = {"kernel": (4, 3, 5, 5), "vector": (7,), "matrix": (3, 2)}
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    for channels_last in (True, False):
        flat = Flat(shapes, torch.device("cpu"), channels_last)
        flat.load(arrays)
        back = flat.arrays()
        for name, array in arrays.items():
            np.testing.assert_array_equal(back[name], array)
            assert flat.views[name].data_ptr() % 64 == flat.buffer.data_ptr() % 64
        assert back["kernel"].flags.c_contiguous
        assert not np.shares_memory(back["vector"], flat.buffer.numpy())
        memory = arrays["kernel"].transpose(0, 2, 3, 1) if channels_last else arrays["kernel"]
        np.testing.assert_array_equal(flat.buffer[:300].numpy(), memory.ravel())
        flat.buffer.mul_(2)
        np.testing.assert_array_equal(flat.arrays()["matrix"], 2 * arrays["matrix"])
