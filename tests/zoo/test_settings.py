from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from seresnext.config import Config, EngineConfig
from seresnext.config.recipes import recipe, zoo, zoo_fixed
from seresnext.errors import UserError
from seresnext.training.plan import make_plan
from seresnext.training.schedule import create_schedule
from seresnext.zoo.command import Given
from seresnext.zoo.options import EvalOptions, TrainOptions
from seresnext.zoo.settings import check_device, engine_config, train_config, validation_path

CARD = 10_009
"""Steps of an ImageNet epoch on one card: the step of the original's log line."""
IMAGES = 1_281_167


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "MS_WORKER_NUM"):
        monkeypatch.delenv(name, raising=False)


def configured(
    *flags: str, typed: Iterable[str] = (), **options: object
) -> tuple[Config, list[str]]:
    """`train_config` of these options; `flags` follow `--`, `typed` are on the command line."""
    values = {"data_path": "train", "out": "nowhere", **options}
    return train_config(Given(TrainOptions(**values), flags, frozenset(typed)))  # type: ignore[arg-type]


def config(**options: object) -> Config:
    return configured(**options)[0]


def rates(config: Config, world: int) -> list[float]:
    """The learning rate of every step of the first half epoch, and of each epoch's first step."""
    plan = make_plan(config, IMAGES, world, config.run.batch_size * world)
    lr = create_schedule(config.schedule, plan)
    return [lr(int(epoch * plan.steps_per_epoch)) for epoch in range(120)]


@pytest.mark.parametrize("name", ["zoo", "zoo-fixed"])
def test_the_names_defaults_are_the_recipe(name: str) -> None:
    """Whatever the recipe says, the original's defaults say too."""
    start = recipe(name)
    expected = replace(
        start,
        data=replace(start.data, train="train"),
        schedule=replace(
            start.schedule, milestones=tuple(f"{n} epochs" for n in (30, 60, 90, 120))
        ),
        engine=replace(start.engine, name="mindspore", device="ascend:0"),
        run=replace(start.run, out="nowhere"),
    )
    assert config(recipe=name) == expected


def test_the_recipe_is_the_originals_training() -> None:
    c = zoo()
    assert c.augment.color_jitter == (0.4, 0.4, 0.4, 0.1)
    assert (c.augment.crop_scale, c.augment.crop_ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert (c.augment.hflip, c.augment.image_size, c.augment.eval_crop_ratio) == (0.5, 224, 0.875)
    assert (c.optim.momentum, c.optim.nesterov, c.optim.weight_decay) == (0.9, False, 1e-4)
    assert (c.loss.label_smoothing, c.loss.smoothing_off_target) == (0.1, True)
    assert (c.engine.precision, c.engine.fp16_batch_norm, c.engine.loss_scale) == (
        *("fp16", True),
        1024,
    )
    assert (c.model.max_pool, c.model.drop_path, c.model.dropout) == ("same", 0, 0)
    assert (c.data.drop_last, c.run.save_every, c.run.keep_checkpoint_max) == (True, "2 epochs", 20)
    assert make_plan(c, IMAGES, 1, 128).steps_per_epoch == CARD


@pytest.mark.parametrize(("world", "peak"), [(8, 0.4), (1, 0.05)])
def test_learning_rate_curve(world: int, peak: float) -> None:
    """Warmup in the first epoch; then a cosine by the epoch that is 0 at 110 and rises again."""
    ours = rates(zoo(), world)
    expected = [peak * (1 + math.cos(math.pi * epoch / 110)) / 2 for epoch in range(120)]
    assert ours[1:] == pytest.approx(expected[1:], abs=1e-12)
    assert ours[110] == pytest.approx(0, abs=1e-12)
    assert max(ours[111:]) == pytest.approx(0.0066 * peak / 0.4, rel=0.01)


def test_the_fixed_recipe_ends_at_zero_and_drops_nothing() -> None:
    ours = rates(zoo_fixed(), 8)
    assert ours[1] == pytest.approx(0.4)
    assert all(a > b for a, b in itertools.pairwise(ours[1:]))
    assert 0 < ours[-1] < 1e-3
    assert not zoo_fixed().data.drop_last
    assert not zoo_fixed().engine.fp16_batch_norm


@pytest.mark.parametrize(("world", "lr_init"), [(1, 0.05), (8, 0.4), (16, 0.4)])
def test_lr_init_is_the_rate_of_the_global_batch(
    monkeypatch: pytest.MonkeyPatch, world: int, lr_init: float
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    c = config(lr_init=lr_init)
    assert make_plan(c, IMAGES, world, 128 * world).peak_lr == pytest.approx(lr_init)
    assert c.engine.device == ("ascend" if world > 1 else "ascend:0")


def test_lr_init_of_a_resumed_run_is_that_of_the_batch_it_began_with(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text('{"global_batch": 1024}')
    c = config(lr_init=0.4, out=str(tmp_path))
    assert make_plan(c, IMAGES, 1, 1024).peak_lr == pytest.approx(0.4)


def test_every_name_reaches_the_configuration() -> None:
    c = config(
        batch_size=64,
        epoch_size=90.0,
        lr_init=0.2,
        lr_scheduler="exponential",
        lr_epochs=(10.0, 20.0),
        lr_gamma=0.5,
        T_max=80.0,
        warmup_epochs=2.0,
        momentum=0.8,
        weight_decay=1e-3,
        use_label_smooth=False,
        is_dynamic_loss_scale=True,
        image_height=32,
        image_width=32,
        val_data_path="val",
        pre_trained=True,
        checkpoint_path="start.ckpt",
        keep_checkpoint_max=5,
        device_id=3,
    )
    assert (c.run.batch_size, c.run.duration, c.run.keep_checkpoint_max) == (64, "90 epochs", 5)
    assert (c.schedule.kind, c.schedule.milestones, c.schedule.gamma) == (
        *("step", ("10 epochs", "20 epochs")),
        0.5,
    )
    assert (c.schedule.cosine_period, c.schedule.warmup) == ("80 epochs", "2 epochs")
    assert (c.optim.lr_per_256, c.optim.momentum, c.optim.weight_decay) == (0.8, 0.8, 1e-3)
    assert (c.loss.label_smoothing, c.engine.loss_scale) == (0, 0)
    assert (c.augment.image_size, c.data.val, c.run.pretrained) == (32, "val", "start.ckpt")
    assert c.engine.device == "ascend:3"


def test_eta_min_is_a_rate() -> None:
    assert config(eta_min=0.01, lr_init=0.4).schedule.final_lr_ratio == pytest.approx(0.025)
    with pytest.raises(UserError, match="eta_min: expected 0 to the peak rate"):
        config(eta_min=0.5, lr_init=0.4)


def test_weights_without_pre_trained_are_left_alone() -> None:
    assert config(checkpoint_path="./ckpt_0").run.pretrained == ""
    with pytest.raises(UserError, match="pre_trained is True: give --checkpoint_path"):
        config(pre_trained=True)


@pytest.mark.parametrize(
    ("target", "engine", "expected"),
    [
        ("CPU", None, EngineConfig(name="torch", device="cpu")),
        ("CPU", "mindspore", EngineConfig(name="mindspore", device="cpu")),
        ("GPU", None, EngineConfig(name="torch", device="cuda:1")),
        ("Ascend", None, EngineConfig(name="mindspore", device="ascend:1")),
        ("Ascend", "torch", EngineConfig(name="torch", device="npu:1")),
    ],
)
def test_devices(target: str, engine: str | None, expected: EngineConfig) -> None:
    assert engine_config(target, 1, engine) == expected  # type: ignore[arg-type]


def test_the_cpu_does_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert engine_config("CPU", 0, None).name == "mindspore"
    assert engine_config("GPU", 0, None).name == "torch"


def test_mindspore_on_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="GPU needs --engine torch"):
        config(device_target="GPU", engine="mindspore")


def test_the_cpu_trains_in_float32_and_says_so() -> None:
    c, notes = configured(device_target="CPU")
    assert (c.engine.precision, c.engine.fp16_batch_norm, c.engine.loss_scale) == ("fp32", False, 0)
    assert notes == ["device_target CPU: float32; the original's float16 is for accelerators"]


@pytest.mark.parametrize(
    ("flags", "options", "expected"),
    [
        ("--engine.precision fp16", {}, (True, 1024)),
        ("--engine.precision fp16", {"loss_scale": 64.0}, (True, 64)),
        ("--engine.precision fp16", {"is_dynamic_loss_scale": True}, (True, 0)),
        ("--engine.precision fp16", {"recipe": "zoo-fixed"}, (False, 1024)),
        ("--engine.precision fp16 --engine.loss-scale 8", {}, (True, 8)),
        ("--engine.precision fp16 --engine.no-fp16-batch-norm", {}, (False, 1024)),
        ("--engine.precision bf16", {}, (False, 0)),
        ("--engine.precision auto", {}, (False, 0)),
    ],
)
@pytest.mark.parametrize("target", ["CPU", "Ascend"])
def test_what_belongs_to_float16_is_honoured_whoever_asks_for_it(
    target: str, flags: str, options: dict[str, object], expected: tuple[bool, float]
) -> None:
    c, notes = configured(*flags.split(), device_target=target, **options)
    assert c.engine.precision == flags.split()[1]
    assert (c.engine.fp16_batch_norm, c.engine.loss_scale) == expected
    assert not notes


def test_what_is_typed_never_changes_silently() -> None:
    _, notes = configured(device_target="CPU", typed=["loss_scale"], loss_scale=64.0)
    assert notes[1].startswith("--loss_scale has no effect: it is for float16 (-- --engine.prec")
    typed = {"loss_scale": 64.0, "batch_size": 4, "lr_init": 0.1, "device_target": "CPU"}
    for flags, name in (
        ("--engine.precision fp16 --engine.loss-scale 8", "loss_scale"),
        ("--run.batch-size 8", "batch_size"),
        ("--optim.lr-per-256 1", "lr_init"),
        ("--engine.device cuda", "device_target"),
    ):
        with pytest.raises(UserError, match=rf"^--{name} .* contradict each other; give one"):
            configured(*flags.split(), typed=typed, **typed)
        values = {k: v for k, v in typed.items() if k != name}
        assert configured(*flags.split(), typed=values, **{"device_target": "CPU", **values})


def test_data_path_may_hold_the_splits(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    c = config(data_path=str(tmp_path))
    assert (c.data.root, c.data.train) == (str(tmp_path), "")
    with pytest.raises(UserError, match="data_path is not set"):
        config(data_path="")


def test_images_are_square() -> None:
    assert config(image_height=256, image_width=256).augment.image_size == 256
    assert config().augment.image_size == 224
    with pytest.raises(UserError, match="height is 224, width 256"):
        config(image_height=224, image_width=256)
    with pytest.raises(UserError, match="height is not given, width 256"):
        config(image_width=256)


def test_a_typed_folder_brings_its_own_validation_images(tmp_path: Path) -> None:
    """Those of a configuration file belong to its data_path."""
    (tmp_path / "train").mkdir()
    both = {"data_path": str(tmp_path), "val_data_path": "elsewhere"}
    assert config(**both).data.val == "elsewhere"
    assert configured(typed=["data_path"], **both)[0].data.val == ""
    assert configured(typed=both, **both)[0].data.val == "elsewhere"
    for typed, expected in (((), "val"), (("data_path",), "typed"), (("val_data_path",), "val")):
        options = EvalOptions(data_path="typed", val_data_path="val")
        assert validation_path(Given(options, typed=frozenset(typed))) == expected


def test_a_machine_without_ascend_is_told_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seresnext.zoo.settings.has_ascend", lambda: False)
    with pytest.raises(UserError, match="no Ascend device here; give --device_target CPU"):
        check_device("Ascend")
    check_device("CPU")
