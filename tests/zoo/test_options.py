from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from seresnext.errors import UserError
from seresnext.zoo.command import parse
from seresnext.zoo.export import output_file
from seresnext.zoo.options import (
    ALL_OPTIONS,
    EvalOptions,
    ExportOptions,
    PostprocessOptions,
    PreprocessOptions,
    TrainOptions,
)
from zoo.tiny import ROOT


def train(*argv: str) -> TrainOptions:
    return parse(TrainOptions, argv, "train.py", flags=True).options


ORIGINAL_DEFAULTS = {
    "name": "imagenet",
    "pre_trained": False,
    "batch_size": 128,
    "epoch_size": 120,
    "momentum": 0.9,
    "weight_decay": 1e-4,
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
        (["--batch_size", "12.5"], "--batch_size: expected a whole number, got '12.5'"),
        (["--lr_init", "high"], "--lr_init: expected a number, got 'high'"),
        (["--pre_trained", "yes"], "--pre_trained: expected True or False (or 1, 0), got 'yes'"),
        (
            ["--device_target", "TPU"],
            "--device_target: expected one of CPU, GPU, Ascend, got 'TPU'",
        ),
        (["--lr_epochs", "30,x"], "--lr_epochs: expected a number, got 'x'"),
        (["--epoch_size", "nan"], "--epoch_size: expected a number, got 'nan'"),
    ],
)
def test_wrong_values_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        train(*argv)
    assert str(caught.value) == message


OUT_OF_RANGE = {
    "num_classes": "0",
    "image_height": "31",
    "image_width": "5000",
    "batch_size": "-4",
    "epoch_size": "0",
    "lr_init": "-1",
    "lr_epochs": "30,-60",
    "lr_gamma": "-0.1",
    "eta_min": "-1e-9",
    "T_max": "0",
    "warmup_epochs": "-1",
    "momentum": "1",
    "weight_decay": "-1e-4",
    "loss_scale": "0",
    "label_smooth_factor": "1",
    "keep_checkpoint_max": "0",
    "device_id": "-1",
    "max_pixels": "0",
    "width": "0",
    "height": "-224",
}


@pytest.mark.parametrize("cls", ALL_OPTIONS)
def test_every_number_is_checked(cls: type, tmp_path: Path) -> None:
    """On the command line and in a file, by the name as it was typed; the defaults are in range."""
    file = tmp_path / "config.yaml"
    for option in dataclasses.fields(cls):
        if not re.search("int|float", str(option.type)):
            continue
        wrong = OUT_OF_RANGE[option.name]
        with pytest.raises(UserError, match=rf"^--{option.name}: expected .*, got -?[0-9]"):
            parse(cls, [f"--{option.name}={wrong}"], "x.py")
        file.write_text(f"{option.name}: [{wrong}]" if "," in wrong else f"{option.name}: {wrong}")
        with pytest.raises(UserError, match=rf"^{option.name} in {file}: expected "):
            parse(cls, ["--config_path", str(file)], "x.py")


ORIGINAL_ARGUMENTS = {
    TrainOptions: "dataset_name device_id",
    EvalOptions: "dataset_name checkpoint_path device_id",
    ExportOptions: "device_id batch_size ckpt_file file_name width height file_format "
    "device_target",
    PreprocessOptions: "dataset_name data_path output_path",
    PostprocessOptions: "dataset_name label_path result_path result_dir",
}
"""The arguments of the original's programs, but for those of its shell scripts, which are
positional."""
ORIGINAL_CONFIG = """
name: 'imagenet'
pre_trained: 'False'
num_classes: 1000
lr_init: 0.4
batch_size: 128
epoch_size: 120
momentum: 0.9
weight_decay: 1e-4
image_height: 224
image_width: 224
data_path: '/data/ILSVRC2012_train/'
val_data_path: '/data/ILSVRC2012_val/'
device_target: 'Ascend'
device_id: 0
keep_checkpoint_max: 20
checkpoint_path: None
onnx_filename: 'seresnext50.onnx'
air_filename: 'seresnext50.air'
lr_scheduler: 'cosine_annealing'
lr_epochs: [30, 60, 90, 120]
lr_gamma: 0.1
eta_min: 0.0
T_max: 110
warmup_epochs: 1
is_dynamic_loss_scale: 0
loss_scale: 1024
label_smooth_factor: 0.1
use_label_smooth: True
"""


@pytest.mark.parametrize("cls", ORIGINAL_ARGUMENTS)
def test_every_argument_of_the_original(cls: type) -> None:
    values = {"dataset_name": "imagenet", "file_format": "ONNX", "device_target": "CPU"}
    numbers = {"device_id": "1", "batch_size": "1", "width": "224", "height": "224"}
    for name in ORIGINAL_ARGUMENTS[cls].split():
        value = {**values, **numbers}.get(name, "text")
        given = parse(cls, [f"--{name}={value}"], "x.py")
        assert value in map(str, vars(given.options).values())
        assert len(given.typed) == 1


@pytest.mark.parametrize("cls", ALL_OPTIONS)
def test_the_originals_configuration_copied_into_yaml(cls: type, tmp_path: Path) -> None:
    """Every command takes it: what is None is not set, what the command does not use is ignored."""
    file = tmp_path / "config.yaml"
    file.write_text(ORIGINAL_CONFIG)
    options = parse(cls, ["--config_path", str(file)], "x.py").options
    if cls is TrainOptions:
        assert (options.checkpoint_path, options.lr_init) == ("", 0.4)
    if cls is EvalOptions:
        assert options.checkpoint_path == "./ckpt_0"
    if cls is PreprocessOptions:
        assert options.val_data_path == "/data/ILSVRC2012_val/"


def test_the_shipped_configuration_is_read_by_default() -> None:
    """It has every name of the original's and changes no default."""
    given = parse(TrainOptions, [], "train.py", flags=True)
    assert given.file == ROOT / "config.yaml"
    assert given.options == TrainOptions()
    shipped = set(yaml.safe_load(given.file.read_text()))
    original = set(yaml.safe_load(ORIGINAL_CONFIG))
    assert shipped == original - {"onnx_filename", "air_filename"}


def test_names_of_exports() -> None:
    """The original's default, and its configuration's names for two of the formats."""

    def name(*argv: str) -> str:
        return str(output_file(parse(ExportOptions, argv, "export.py")))

    assert name() == "senet.mindir"
    assert name("--file_format", "ONNX") == "senet.onnx"
    assert name("--file_format", "AIR") == "senet.air"
    config = ("--onnx_filename", "a.onnx", "--air_filename", "b")
    assert name(*config) == "senet.mindir"
    assert name(*config, "--file_format", "ONNX") == "a.onnx"
    assert name(*config, "--file_format", "AIR") == "b.air"
    assert name(*config, "--file_format", "ONNX", "--file_name", "c") == "c.onnx"


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
    assert parse(EvalOptions, arguments, "eval.py").options.checkpoint_path == "./mine"
    assert parse(ExportOptions, arguments, "export.py").options.file_format == "ONNX"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr_initial: 1\n", "unknown name 'lr_initial' in "),
        ("batch_size: true\n", "config.yaml: expected a whole number, got True"),
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
    arguments = ["--batch_size", "4", "--", "--model.layers", "1", "1", "1", "1"]
    given = parse(TrainOptions, arguments, "train.py", flags=True)
    assert given.options.batch_size == 4
    assert given.flags == ("--model.layers", "1", "1", "1", "1")
    with pytest.raises(UserError, match=r"eval\.py takes no flags after --"):
        parse(EvalOptions, arguments, "eval.py")
