from __future__ import annotations

from pathlib import Path

import pytest

from seresnext.errors import UserError
from seresnext.zoo.command import parse
from seresnext.zoo.options import EvalOptions, ExportOptions, TrainOptions


def train(*argv: str) -> TrainOptions:
    return parse(TrainOptions, argv, "train.py")[0]


ORIGINAL_DEFAULTS = {
    "name": "imagenet",
    "pre_trained": False,
    "batch_size": 128,
    "epoch_size": 120,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "image_height": 224,
    "image_width": 224,
    "device_target": "Ascend",
    "device_id": 0,
    "keep_checkpoint_max": 20,
    "lr_scheduler": "cosine_annealing",
    "lr_epochs": (30, 60, 90, 120),
    "lr_gamma": 0.1,
    "eta_min": 0,
    "warmup_epochs": 1,
    "is_dynamic_loss_scale": False,
    "loss_scale": 1024,
    "label_smooth_factor": 0.1,
    "use_label_smooth": True,
}


def test_defaults_are_the_originals() -> None:
    options = train()
    assert {name: getattr(options, name) for name in ORIGINAL_DEFAULTS} == ORIGINAL_DEFAULTS


def test_values_are_typed() -> None:
    options = train(
        *("--lr_init", "4e-1", "--epoch_size=90", "--is_dynamic_loss_scale", "1"),
        *("--use_label_smooth", "False", "--lr_epochs", "[10, 20]", "--num_classes", "10"),
    )
    assert options.lr_init == 0.4
    assert options.epoch_size == 90
    assert options.is_dynamic_loss_scale is True
    assert options.use_label_smooth is False
    assert options.lr_epochs == (10.0, 20.0)
    assert options.num_classes == 10


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch_size", "12.5"], "batch_size: expected a whole number, got '12.5'"),
        (["--lr_init", "high"], "lr_init: expected a number, got 'high'"),
        (["--pre_trained", "yes"], "pre_trained: expected True or False (or 1, 0), got 'yes'"),
        (["--device_target", "TPU"], "device_target: expected one of CPU, GPU, Ascend, got 'TPU'"),
        (["--lr_epochs", "30,x"], "lr_epochs: expected a number, got 'x'"),
        (["--epoch_size", "nan"], "epoch_size: expected a number, got 'nan'"),
    ],
)
def test_wrong_values_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        train(*argv)
    assert str(caught.value) == message


def test_unknown_names_are_refused_with_the_list() -> None:
    with pytest.raises(UserError) as caught:
        train("--lr_int", "0.1")
    text = str(caught.value)
    assert "unknown name 'lr_int' on the command line (did you mean lr_init?)" in text
    assert all(name in text for name in ("T_max", "val_data_path", "is_dynamic_loss_scale"))


def test_yaml_then_command_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("lr_init: 4e-1\nepoch_size: 90\nlr_epochs: [30, 60]\npre_trained: False\n")
    options = train("--config_path", str(file), "--epoch_size", "3")
    assert (options.lr_init, options.epoch_size, options.lr_epochs) == (0.4, 3, (30, 60))


def test_one_yaml_for_all_commands(tmp_path: Path) -> None:
    """A file followed by help and choices, as in the model zoo, with names of all commands."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "save_ckpt: False\nfile_format: ONNX\ncheckpoint_path: ./mine\nT_max:\n"
        "---\nlr_init: help text\n---\nfile_format: [AIR, ONNX, MINDIR]\n"
    )
    arguments = ["--config_path", str(file)]
    assert train(*arguments).save_ckpt is False
    assert parse(EvalOptions, arguments, "eval.py")[0].checkpoint_path == "./mine"
    assert parse(ExportOptions, arguments, "export.py")[0].file_format == "ONNX"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr_initial: 1\n", "unknown name 'lr_initial' in "),
        ("batch_size: true\n", "batch_size: expected a whole number, got True"),
        ("[1, 2]\n", "holds no names"),
        ("a: [\n", "is not YAML"),
        ("!!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_wrong_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        train("--config_path", str(file))


def test_missing_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nothing\.yaml: No such file"):
        train("--config_path", str(tmp_path / "nothing.yaml"))


def test_what_follows_the_dashes_is_left_alone() -> None:
    options, flags = parse(
        TrainOptions, ["--batch_size", "4", "--", "--model.layers", "1", "1", "1", "1"], "train.py"
    )
    assert options.batch_size == 4
    assert flags == ["--model.layers", "1", "1", "1", "1"]
