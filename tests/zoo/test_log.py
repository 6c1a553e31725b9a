from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seresnext.config import RunConfig
from seresnext.config.recipes import zoo
from seresnext.errors import UserError
from seresnext.model.architecture import architecture
from seresnext.model.init import init_weights
from seresnext.model.spec import ModelSpec
from seresnext.training.checkpoint import Checkpoint
from seresnext.weights.load import load_weights
from seresnext.zoo.checkpoints import (
    ckpt_name,
    list_ckpts,
    refuse_other_runs,
    write_if_due,
    write_zoo_ckpt,
)
from seresnext.zoo.log import ZooReporter, epoch_and_step, epoch_line, last_step, time_line

EPOCH_LINE = re.compile(r"epoch: \d+ step: \d+, loss is \d+\.\d{6}")
TIME_LINE = re.compile(r"epoch time: \d+\.\d{3} ms, per step time: \d+\.\d{3} ms")


def test_lines_are_the_originals() -> None:
    assert epoch_line(2, 10009, 4.338852) == "epoch: 2 step: 10009, loss is 4.338852"
    assert time_line(2179.261821, 10009) == (
        "epoch time: 2179261.821 ms, per step time: 217.730 ms"
    )


def test_steps_count_within_the_epoch() -> None:
    assert [epoch_and_step(n, 3.0) for n in (1, 3, 4, 6, 7)] == [
        *((1, 1), (1, 3), (2, 1)),
        *((2, 3), (3, 1)),
    ]


def test_an_epoch_of_a_broken_number_of_steps_ends_with_the_step_that_completes_it() -> None:
    """Two and a half steps: epochs end at 3, 5, 8, 10."""
    assert [last_step(epoch, 2.5) for epoch in (0, 1, 2, 3, 4)] == [0, 3, 5, 8, 10]
    assert [epoch_and_step(n, 2.5) for n in (1, 3, 4, 5, 6, 8)] == [
        *((1, 1), (1, 3), (2, 1)),
        *((2, 2), (3, 1), (3, 3)),
    ]


def train_record(step: int, loss: float) -> dict[str, float]:
    return {"step": step, "epoch": step / 4, "train/loss": loss}


def test_two_lines_at_the_end_of_each_epoch() -> None:
    stream = io.StringIO()
    reporter = ZooReporter(stream)
    reporter.started(0, 8, 4.0)
    for step in range(1, 9):
        reporter.metrics(train_record(step, 1 / step))
        if step == 4:
            reporter.metrics({"step": 4, "epoch": 1.0, "val/top1": 0.5, "val/top5": 1.0})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "epoch: 1 step: 4, loss is 0.250000"
    assert lines[2] == (
        "epoch: 1 validation accuracy is {'top_1_accuracy': 0.5, 'top_5_accuracy': 1.0}"
    )
    assert lines[3] == "epoch: 2 step: 4, loss is 0.125000"
    assert TIME_LINE.fullmatch(lines[1])
    assert TIME_LINE.fullmatch(lines[4])
    assert len(lines) == 5


def test_time_is_that_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds a step; the hundred of the validation between the epochs are not in it."""
    clock = iter([0.0, 0.0, 20.0, 120.0, 140.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    stream = io.StringIO()
    reporter = ZooReporter(stream)
    reporter.started(0, 4, 2.0)
    reporter.metrics(train_record(2, 1.0))
    reporter.metrics({"step": 2, "epoch": 1.0, "val/top1": 0.5, "val/top5": 1.0})
    reporter.metrics(train_record(4, 1.0))
    assert stream.getvalue().count("epoch time: 20000.000 ms, per step time: 10000.000 ms") == 2


# Checkpoint files ----------------------------------------------------------------------------

ARCH = architecture(
    "seresnext50_32x4d", num_classes=3, layers=(1, 1, 1, 1), max_pool="same", cardinality=8
)


def checkpoint(
    step: int, arch=ARCH, steps_per_epoch: float = 3.0, **groups: dict[str, np.ndarray]
) -> Checkpoint:
    """Of a run with 8 images per step."""
    state = {
        "model": ModelSpec(arch, ("a", "b", "c")).to_dict(),
        "global_batch": 8,
        "epoch": step / steps_per_epoch,
    }
    return Checkpoint(step, state, groups or {"model": init_weights(arch, step)})


def test_files_are_read_back_with_their_biases(tmp_path: Path) -> None:
    made = checkpoint(4)
    write_zoo_ckpt(tmp_path / "a.ckpt", made)
    found = load_weights(tmp_path / "a.ckpt")
    assert (found.layout, found.architecture.max_pool) == ("original", "same")
    assert found.weights["fc.bias"].any()
    assert found.weights["layer1.0.se.fc2.bias"].any()
    for name, array in made.tensors["model"].items():
        np.testing.assert_array_equal(found.weights[name], array)


def test_averaged_weights_go_first(tmp_path: Path) -> None:
    made = checkpoint(4, model=init_weights(ARCH, 1), ema=init_weights(ARCH, 2))
    write_zoo_ckpt(tmp_path / "a.ckpt", made)
    found = load_weights(tmp_path / "a.ckpt")
    np.testing.assert_array_equal(found.weights["fc.weight"], made.tensors["ema"]["fc.weight"])


def test_the_newest_files_stay(tmp_path: Path) -> None:
    for epoch in (2, 8, 10, 12):
        write_if_due(tmp_path, RunConfig(keep_checkpoint_max=2), checkpoint(3 * epoch))
    assert [path.name for path in list_ckpts(tmp_path)] == [ckpt_name(10, 3), ckpt_name(12, 3)]


def test_another_padding_is_refused(tmp_path: Path) -> None:
    arch = architecture("seresnext50_32x4d", num_classes=3, layers=(1, 1, 1, 1))
    with pytest.raises(UserError, match="max-pool padding 'same', this network has 'torch'"):
        write_zoo_ckpt(tmp_path / "a.ckpt", checkpoint(1, arch))


def test_files_of_another_run_are_not_touched(tmp_path: Path) -> None:
    refuse_other_runs(tmp_path)
    (tmp_path / ckpt_name(120, 10009)).write_bytes(b"theirs")
    with pytest.raises(UserError, match="checkpoints of another run"):
        refuse_other_runs(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    refuse_other_runs(tmp_path)
    assert (tmp_path / ckpt_name(120, 10009)).read_bytes() == b"theirs"


def test_a_file_is_written_every_two_epochs_and_at_the_end(tmp_path: Path) -> None:
    run = replace(zoo().run, duration="5 epochs")
    for step in (3, 6, 7, 12, 15):
        write_if_due(tmp_path, run, checkpoint(step))
    assert [path.name for path in list_ckpts(tmp_path)] == [
        *("train_senet_imagenet-2_3.ckpt", "train_senet_imagenet-4_3.ckpt"),
        "train_senet_imagenet-5_3.ckpt",
    ]


def test_files_follow_the_runs_own_interval(tmp_path: Path) -> None:
    """Images are turned into steps: 24 images at 8 per step are three steps."""
    run = RunConfig(save_every="24 images", duration="25 epochs", keep_checkpoint_max=1)
    for step in (2, 3, 4, 6):
        write_if_due(tmp_path, run, checkpoint(step, steps_per_epoch=4.0))
    assert [path.name for path in list_ckpts(tmp_path)] == ["train_senet_imagenet-2_2.ckpt"]


def test_an_epoch_of_a_broken_number_of_steps_names_its_file(tmp_path: Path) -> None:
    """ImageNet at a global batch of 8, no image dropped: the epoch is read from the state."""
    run = RunConfig(save_every="1 epochs", duration="120 epochs", keep_checkpoint_max=9)
    steps_per_epoch = 1_281_167 / 8
    ends = [last_step(epoch, steps_per_epoch) for epoch in (1, 7, 119, 120)]
    for step in (1, ends[1] - 1, *ends, ends[1] + 1):
        write_if_due(tmp_path, run, checkpoint(step, steps_per_epoch=steps_per_epoch))
    assert [path.name for path in list_ckpts(tmp_path)] == [
        *("train_senet_imagenet-1_160146.ckpt", "train_senet_imagenet-7_160146.ckpt"),
        *("train_senet_imagenet-119_160146.ckpt", "train_senet_imagenet-120_160145.ckpt"),
    ]
