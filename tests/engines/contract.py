"""What every engine must do, as one template: subclass it per engine with a `make_engine`.

Expected values come from NumPy in float64. The gradient is read from the optimizer's momentum:
after one step from zero momentum, without weight decay, that is the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from engines.networks import CLASSES, SIDE, optim_and_loss, random_batch, tiny_spec
from seresnext.batch import Batch
from seresnext.config import EngineConfig, LossConfig, OptimConfig
from seresnext.engines.base import Engine, EngineState, Tensors
from seresnext.errors import UserError
from seresnext.model.architecture import decays, is_buffer, weight_shapes
from seresnext.model.init import init_weights
from seresnext.model.spec import ModelSpec

LR = 0.05
PLAIN = {"momentum": 0.9, "weight_decay": 0.0, "label_smoothing": 0.0}


def unit_scales(weight: np.ndarray, gradient: np.ndarray, clip: float) -> np.ndarray:
    """What scales each unit's gradient down (arXiv:2102.06171, equation 3), to be broadcast."""
    axes = tuple(range(weight.ndim > 1, weight.ndim))
    of_weight, of_gradient = (
        np.sqrt(np.square(t).sum(axes, keepdims=True)) for t in (weight, gradient)
    )
    return np.minimum(1.0, clip * np.maximum(of_weight, 1e-3) / np.maximum(of_gradient, 1e-6))


def norm(tensors: Mapping[str, np.ndarray]) -> float:
    """Global L2 norm in float64."""
    return float(np.sqrt(sum(np.square(t, dtype=np.float64).sum() for t in tensors.values())))


def assert_same_bits(a: EngineState, b: EngineState) -> None:
    assert a.scalars == b.scalars
    assert a.optimizer.keys() == b.optimizer.keys()
    for group, ours in a.groups().items():
        theirs = b.groups()[group]
        assert list(ours) == list(theirs)
        differ = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
        assert not differ, f"{group}: {differ[:5]}"


def assert_close(
    ours: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float
) -> None:
    """Every tensor within `tolerance`, relative to its norm (or to 1e-3 of the largest one's)."""
    assert list(ours) == list(expected)
    floor = 1e-3 * max(float(np.linalg.norm(v)) for v in expected.values())
    for name, value in expected.items():
        error = float(np.linalg.norm(ours[name] - value))
        assert error <= tolerance * max(float(np.linalg.norm(value)), floor), (name, error)


class EngineContract:
    """Inherit, override `make_engine` and, where arithmetic is coarser, `tolerance`."""

    tolerance: ClassVar[float] = 2e-5
    """Relative, between float32 on the device and the reference."""
    _engines: ClassVar[dict[str, tuple[Engine, EngineState]]]

    def make_engine(
        self,
        spec: ModelSpec,
        weights: Mapping[str, np.ndarray],
        engine: EngineConfig,
        optim: OptimConfig | None,
        loss: LossConfig | None = None,
    ) -> Engine:
        raise NotImplementedError

    def __init_subclass__(cls) -> None:
        cls._engines = {}  # built once per configuration, since building may compile for seconds

    def engine(
        self, network: Mapping[str, Any] | None = None, config: Any = None, **optim: Any
    ) -> Engine:
        """The engine of this configuration, at its starting weights, before its first step."""
        settings = optim_and_loss(PLAIN | optim)
        engine_config = EngineConfig(**{"device": "cpu", "threads": 1, **(config or {})})
        key = repr((network, engine_config, settings))
        if key not in self._engines:
            spec = tiny_spec(**(network or {}))
            weights = init_weights(spec.architecture, 0)
            built = self.make_engine(spec, weights, engine_config, *settings)
            self._engines[key] = (built, built.state_dict())
        engine, start = self._engines[key]
        engine.load_state_dict(start)
        return engine

    def gradient(self, batch: Batch, model: Tensors | None = None, **optim: Any) -> Tensors:
        """Gradient of the loss at these weights (the starting ones)."""
        engine = self.engine(**optim)
        if model is not None:
            engine.load_state_dict(EngineState(model))
        engine.train_step(batch, 0.0)
        return engine.state_dict().optimizer["momentum"]

    def loss(self, batch: Batch, **optim: Any) -> float:
        engine = self.engine(**optim)
        return engine.fetch(engine.train_step(batch, 0.0))["loss"]

    # The step ----------------------------------------------------------------------------

    def test_describes_itself(self) -> None:
        engine = self.engine()
        assert isinstance(engine, Engine)
        assert (engine.rank, engine.world_size) == (0, 1)
        assert engine.device.startswith("cpu")
        assert engine.spec == tiny_spec()

    def test_activations_lead_to_the_logits(self) -> None:
        """The classifier on the mean of the last feature map gives the logits of `predict`."""
        engine = self.engine()
        images = random_batch(3).images
        found, weights = engine.activations(images), engine.state_dict().model
        logits = engine.predict(images)
        assert found.logits.tobytes() == logits.tobytes()
        pooled = found.features.astype(np.float64).mean((2, 3))
        expected = pooled @ weights["fc.weight"].T + weights["fc.bias"]
        np.testing.assert_allclose(logits, expected, rtol=self.tolerance, atol=self.tolerance)
        blocks = {b.name: b.out_channels for b in engine.spec.architecture.blocks()}
        assert {name: gates.shape for name, gates in found.gates.items()} == {
            name: (3, channels) for name, channels in blocks.items()
        }
        assert all(((gates > 0) & (gates < 1)).all() for gates in found.gates.values())

    def test_learns_a_fixed_batch(self) -> None:
        engine, batch = self.engine(), random_batch(8)
        records = [engine.fetch(engine.train_step(batch, LR)) for _ in range(12)]
        assert set(records[0]) == {"loss", "top1", "grad_norm", "finite"}
        assert records[0]["loss"] == pytest.approx(np.log(CLASSES), rel=0.3)
        assert records[-1]["loss"] < 0.3 * records[0]["loss"]
        assert records[-1]["top1"] == 1.0
        assert all(r["finite"] == 1.0 and r["grad_norm"] == 0.0 for r in records)

    def test_a_batch_that_is_not_finite_changes_nothing(self) -> None:
        engine, good = self.engine(ema_decay=0.9), random_batch(8)
        bad = replace(good, mix=np.full(8, np.nan, np.float32))
        engine.train_step(good, LR)
        before = engine.state_dict()
        assert engine.fetch(engine.train_step(bad, LR))["finite"] == 0.0
        assert_same_bits(engine.state_dict(), before)
        engine.train_step(good, LR)
        after = engine.state_dict()
        engine.load_state_dict(before)
        engine.train_step(good, LR)
        assert_same_bits(engine.state_dict(), after)

    def test_a_bad_first_batch_leaves_no_trace(self) -> None:
        engine, good = self.engine(), random_batch(8)
        engine.train_step(replace(good, mix=np.full(8, np.inf, np.float32)), LR)
        engine.train_step(good, LR)
        after = engine.state_dict()
        engine = self.engine()
        engine.train_step(good, LR)
        assert_same_bits(engine.state_dict(), after)

    def test_the_size_of_images_may_change_between_steps(self) -> None:
        """A step has the same bits whatever the sizes before it; evaluation has its own."""
        batches = [random_batch(8, seed, side) for seed, side in enumerate((SIDE, 64, SIDE))]
        engine = self.engine(ema_decay=0.9)
        states, logits = [engine.state_dict()], []
        for batch in batches:
            engine.train_step(batch, LR)
            states.append(engine.state_dict())
            logits.append(engine.predict(random_batch(3).images))
        for step in (2, 0, 1):
            engine.load_state_dict(states[step])
            engine.train_step(batches[step], LR)
            assert_same_bits(engine.state_dict(), states[step + 1])
            assert engine.predict(random_batch(3).images).tobytes() == logits[step].tobytes()

    def test_noise_comes_from_the_seed_of_the_batch(self) -> None:
        network = {"drop_path": 0.5, "dropout": 0.5}
        batch = random_batch(8)
        losses = []
        for seed in (1, 1, 2):
            engine = self.engine(network)
            losses.append(engine.fetch(engine.train_step(replace(batch, seed=seed), 0.0))["loss"])
        assert losses[0] == losses[1] != losses[2]

    # The loss ----------------------------------------------------------------------------

    def test_masked_rows_do_not_count(self) -> None:
        batch = random_batch(8)
        mask = np.arange(8) < 3
        parts = [replace(batch, mask=m) for m in (mask, ~mask)]
        few, many = (self.loss(part) for part in parts)
        assert self.loss(batch) == pytest.approx((3 * few + 5 * many) / 8, rel=self.tolerance)
        gradients = [self.gradient(part) for part in parts]
        expected = {k: (3 * gradients[0][k] + 5 * gradients[1][k]) / 8 for k in gradients[0]}
        assert_close(self.gradient(batch), expected, 5 * self.tolerance)

    def test_labels_of_masked_rows_do_not_matter(self) -> None:
        batch = random_batch(8)
        mask = np.arange(8) < 5
        other = np.where(mask, batch.labels, (batch.labels + 1) % CLASSES).astype(np.int32)
        states = []
        for labels in (batch.labels, other):
            engine = self.engine()
            engine.train_step(replace(batch, mask=mask, labels=labels, mixed_labels=labels), LR)
            states.append(engine.state_dict())
        assert_same_bits(*states)

    def test_a_batch_without_a_single_image_has_no_loss(self) -> None:
        empty = replace(random_batch(8), mask=np.zeros(8, bool))
        assert self.loss(empty) == 0.0
        assert norm(self.gradient(empty)) == 0.0

    def test_mixed_labels_are_a_weighted_sum(self) -> None:
        batch = random_batch(8)
        other = np.roll(batch.labels, 1)
        weight = np.float32(0.7)
        mixed = replace(batch, mixed_labels=other, mix=np.full(8, weight))
        pure = replace(batch, labels=other, mixed_labels=other)
        expected = weight * self.loss(batch) + (1 - weight) * self.loss(pure)
        assert self.loss(mixed) == pytest.approx(expected, rel=self.tolerance)
        first, second = self.gradient(batch), self.gradient(pure)
        blend = {k: weight * first[k] + (1 - weight) * second[k] for k in first}
        assert_close(self.gradient(mixed), blend, 5 * self.tolerance)

    @pytest.mark.parametrize("off_target", [False, True])
    def test_label_smoothing(self, off_target: bool) -> None:
        """The loss of a batch of one class only is minus the mean log-probability of that class,
        so as many batches give them all, and the smoothed loss is their weighted sum."""
        batch, smoothing = random_batch(8), 0.2
        every = [np.full(8, k, np.int32) for k in range(CLASSES)]
        losses = np.array([self.loss(replace(batch, labels=k, mixed_labels=k)) for k in every])
        target = np.full(CLASSES, smoothing / (CLASSES - 1 if off_target else CLASSES))
        target[2] = 1 - smoothing if off_target else 1 - smoothing + smoothing / CLASSES
        assert target.sum() == pytest.approx(1)
        smoothed = self.loss(
            replace(batch, labels=every[2], mixed_labels=every[2]),
            label_smoothing=smoothing,
            smoothing_off_target=off_target,
        )
        assert smoothed == pytest.approx(float(target @ losses), rel=self.tolerance)

    # The update --------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "optim",
        [
            {},
            {"momentum": 0.0, "weight_decay": 0.1},
            {"nesterov": True, "weight_decay": 0.1},
            {"clip_norm": 0.5, "weight_decay": 0.1},
            {"clip_norm": 1e6},
            {"clip_unit": 0.02, "weight_decay": 0.1},
        ],
        ids=lambda optim: " ".join(optim) or "momentum",
    )
    def test_two_updates_as_in_numpy(self, optim: dict[str, Any]) -> None:
        """arXiv:1706.02677's SGD (decay in the gradient, rate outside momentum), in float64."""
        settings, _ = optim_and_loss(PLAIN | optim)
        batches = [random_batch(8, seed=s) for s in (1, 2)]
        engine = self.engine(**optim)
        weights = {k: v.astype(np.float64) for k, v in engine.state_dict().model.items()}
        velocity = {k: np.zeros(v.shape) for k, v in weights.items() if not is_buffer(k)}
        states, records, clipped = [], [], 0
        for batch in batches:
            records.append(engine.fetch(engine.train_step(batch, LR)))
            states.append(engine.state_dict())
        model = self.engine().state_dict().model
        for batch, state, record in zip(batches, states, records, strict=True):
            gradient = self.gradient(batch, model)
            scale = 1.0
            if settings.clip_norm:
                assert record["grad_norm"] == pytest.approx(norm(gradient), rel=self.tolerance)
                scale = min(1.0, settings.clip_norm / norm(gradient))
            for name, v in velocity.items():
                g = gradient[name] * scale
                if settings.clip_unit and not name.startswith("fc."):
                    unit_scale = unit_scales(weights[name], g, settings.clip_unit)
                    clipped += int((unit_scale < 1).sum())
                    g = g * unit_scale
                if decays(g.shape):
                    g = g + settings.weight_decay * weights[name]
                v *= settings.momentum
                v += g
                step = g + settings.momentum * v if settings.nesterov else v
                weights[name] -= LR * step
            trained = {k: state.model[k] for k in velocity}
            assert_close(trained, {k: weights[k] for k in velocity}, self.tolerance)
            if settings.momentum:
                assert_close(state.optimizer["momentum"], velocity, 5 * self.tolerance)
            else:
                assert state.optimizer == {}
            model = state.model
        if settings.clip_unit:
            assert clipped > 20  # or clipping was not tested
        if settings.clip_norm == 0.5:
            assert records[0]["grad_norm"] > 0.5  # or clipping was not tested

    def test_accumulation_equals_the_whole_batch(self) -> None:
        """Two pieces with the same images have the BN statistics of the whole batch."""
        half = random_batch(4)
        twice = {
            name: np.concatenate([getattr(half, name)] * 2)
            for name in ("images", "mixed_labels", "mix", "mask", "index")
        }
        labels = np.concatenate([half.labels, (half.labels + 1) % CLASSES])
        batch = replace(half, **{**twice, "labels": labels, "mixed_labels": labels})
        batch.mask[[0, 1, 5]] = False  # other rows in each piece
        assert self.loss(batch, accumulate=2) == pytest.approx(self.loss(batch), rel=1e-5)
        whole = self.gradient(batch)
        assert_close(self.gradient(batch, accumulate=2), whole, 5 * self.tolerance)

    def test_average_of_the_weights(self) -> None:
        decay = 0.2  # the first update's 2/11 is below it, the second's 3/12 above
        engine = self.engine(ema_decay=decay)
        average = {k: v.astype(np.float64) for k, v in engine.state_dict().model.items()}
        for update in (1, 2, 3):
            engine.train_step(random_batch(8, seed=update), LR)
            state = engine.state_dict()
            d = min(decay, (1 + update) / (10 + update))
            average = {k: d * average[k] + (1 - d) * state.model[k] for k in average}
            assert state.scalars["updates"] == update
            assert_close(state.ema, average, self.tolerance)

    # Prediction --------------------------------------------------------------------------

    def test_predicts_any_number_of_images(self) -> None:
        engine, images = self.engine(), random_batch(8).images
        engine.train_step(random_batch(8), LR)
        logits = engine.predict(images)
        assert logits.shape == (8, CLASSES)
        assert logits.dtype == np.float32
        for n in (0, 1, 3):
            some = engine.predict(images[:n])
            assert some.shape == (n, CLASSES)
            np.testing.assert_allclose(some, logits[:n], rtol=1e-4, atol=1e-5)

    def test_predicts_other_sizes(self) -> None:
        rng = np.random.default_rng(0)
        for height, width in ((32, 48), (45, 33)):
            images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
            logits = self.engine().predict(images)
            assert logits.shape == (2, CLASSES)
            assert np.isfinite(logits).all()

    def test_predicts_by_the_average(self) -> None:
        engine, images = self.engine(ema_decay=0.9), random_batch(4).images
        for seed in range(3):
            engine.train_step(random_batch(8, seed=seed), LR)
        logits, state = engine.predict(images), engine.state_dict()
        for weights, equal in ((state.ema, True), (state.model, False)):
            plain = self.engine()
            plain.load_state_dict(EngineState(weights))
            close = np.allclose(plain.predict(images), logits, rtol=1e-4, atol=1e-5)
            assert close == equal

    def test_predicting_leaves_training_alone(self) -> None:
        states = []
        for predicts in (False, True):
            engine = self.engine()
            for seed in range(2):
                engine.train_step(random_batch(8, seed=seed), LR)
                if predicts:
                    engine.predict(random_batch(3).images)
            states.append(engine.state_dict())
        assert_same_bits(*states)

    def test_arrays_that_may_not_be_written(self) -> None:
        batch = random_batch(8)
        for name in ("images", "labels", "mixed_labels", "mix", "mask"):
            getattr(batch, name).flags.writeable = False
        engine = self.engine()
        assert engine.fetch(engine.train_step(batch, LR))["finite"] == 1.0
        assert engine.predict(batch.images).shape == (8, CLASSES)

    # State -------------------------------------------------------------------------------

    def test_state_has_canonical_names_and_is_a_copy(self) -> None:
        engine = self.engine(ema_decay=0.9)
        engine.train_step(random_batch(8), LR)
        state = engine.state_dict()
        shapes = weight_shapes(engine.spec.architecture)
        for tensors in (state.model, state.ema):
            assert {k: v.shape for k, v in tensors.items()} == shapes
            assert list(tensors) == list(shapes)
        assert state.optimizer.keys() == {"momentum"}
        assert list(state.optimizer["momentum"]) == [k for k in shapes if not is_buffer(k)]
        assert {v.dtype for v in state.model.values()} == {np.dtype(np.float32)}
        before = state.model["fc.weight"].copy()
        engine.train_step(random_batch(8), LR)
        assert (state.model["fc.weight"] == before).all()
        assert (engine.state_dict().model["fc.weight"] != before).any()

    def test_a_loaded_state_goes_on_to_the_bit(self) -> None:
        optim = {"ema_decay": 0.9, "nesterov": True, "weight_decay": 1e-4}
        network = {"drop_path": 0.2, "dropout": 0.2}
        batches = [random_batch(8, seed=s) for s in range(4)]
        engine = self.engine(network, **optim)
        for batch in batches[:2]:
            engine.train_step(batch, LR)
        middle = engine.state_dict()
        for batch in batches[2:]:
            engine.train_step(batch, LR)
        end, logits = engine.state_dict(), engine.predict(batches[0].images)
        engine = self.engine(network, **optim)
        engine.load_state_dict(middle)
        assert_same_bits(engine.state_dict(), middle)
        for batch in batches[2:]:
            engine.train_step(batch, LR)
        assert_same_bits(engine.state_dict(), end)
        assert engine.predict(batches[0].images).tobytes() == logits.tobytes()

    def test_no_optimizer_state_before_the_first_update(self) -> None:
        assert self.engine().state_dict().optimizer == {}

    @pytest.mark.parametrize("group", ["model", "optimizer.momentum", "ema"])
    def test_a_state_that_does_not_fit_is_refused_by_name(self, group: str) -> None:
        engine = self.engine(ema_decay=0.9)
        engine.train_step(random_batch(8), LR)
        state = engine.state_dict()
        tensors = dict(state.groups()[group])
        tensors["layer9.weight"] = tensors.pop("layer1.0.conv1.weight")
        tensors["fc.bias"] = np.zeros(CLASSES + 1, np.float32)
        before = engine.state_dict()
        state = EngineState.from_groups(state.groups() | {group: tensors}, state.scalars)
        with pytest.raises(UserError) as error:
            engine.load_state_dict(state)
        for words in (
            "missing layer1.0.conv1.weight",
            "unexpected layer9.weight",
            f"fc.bias has shape ({CLASSES + 1},), expected ({CLASSES},)",
        ):
            assert words in str(error.value)
        assert_same_bits(engine.state_dict(), before)

    def test_starting_weights_that_do_not_fit_are_refused(self) -> None:
        spec = tiny_spec()
        weights = init_weights(spec.architecture, 0)
        del weights["bn1.bias"]
        with pytest.raises(UserError, match=r"missing bn1\.bias"):
            self.make_engine(spec, weights, EngineConfig(device="cpu"), None)

    def test_an_engine_without_optimizer_predicts_the_same(self) -> None:
        spec = tiny_spec()
        weights = init_weights(spec.architecture, 0)
        config = EngineConfig(device="cpu", threads=1)
        engine = self.make_engine(spec, weights, config, None)
        images = random_batch(4).images
        expected = self.engine().predict(images)
        np.testing.assert_allclose(engine.predict(images), expected, rtol=1e-5, atol=1e-6)
        assert_same_bits(engine.state_dict(), EngineState(weights))
        assert images.shape == (4, SIDE, SIDE, 3)

    # The world ---------------------------------------------------------------------------

    def test_sum_over_a_world_of_one(self) -> None:
        for values in (np.array([1.5, -2.0]), np.array([[2**62, 1]])):
            summed = self.engine().all_sum(values)
            assert summed.dtype == values.dtype
            np.testing.assert_array_equal(summed, values)
