"""The commands on MindSpore, whose engine the original had."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zoo.tiny import LAYERS, TINY, Command

pytest.importorskip("mindspore", reason="needs MindSpore")
pytestmark = pytest.mark.slow  # MindSpore compiles each network for half a minute

LINES = r"""(epoch: (\d) step: 6, loss is \d+\.\d{6}
epoch time: \d+\.\d{3} ms, per step time: \d+\.\d{3} ms
epoch: \2 validation accuracy is {'top_1_accuracy': [\d.]+, 'top_5_accuracy': 1\.0}
){2}[\d.]+ images/s, bound by .*
the model has the (best|last) weights, .*
train success
"""


def test_training_evaluated_by_both_engines(tmp_path: Path, digits: Path, command: Command) -> None:
    arguments = ("--device_target", "CPU", "--val_data_path", digits / "val")
    done = command(
        *("train.py", "--engine", "mindspore", "--data_path", digits / "train"),
        *(*arguments, "--epoch_size", "2", *TINY, *LAYERS),
        cwd=tmp_path,
    )
    printed = done.stdout
    assert "seresnext50_32x4d on mindspore cpu" in printed
    assert re.fullmatch(LINES, printed[printed.index("epoch: 1") :]), printed
    lines = [
        command("eval.py", *arguments, "--engine", engine, cwd=tmp_path).stdout
        for engine in ("mindspore", "torch")
    ]
    assert lines[0] == lines[1]
    validated = re.findall(r"validation accuracy is (.*)", printed)[-1]
    name = "./ckpt_0/train_senet_imagenet-2_6.ckpt"
    assert lines[0] == f"model {name}'s accuracy is {validated}\n"
