"""What a file says of itself: every field of every description, given every kind of odd value."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runs import run_cli
from runtimes.networks import artifact, random_images, random_weights, tiny_spec
from seresnext.config import Config, load_config
from seresnext.errors import UserError, printable
from seresnext.model.architecture import architecture
from seresnext.model.saved_model import load_model, save_model
from seresnext.model.spec import InputSpec, ModelSpec
from seresnext.runtimes.artifact import read_artifact
from seresnext.training.log import BarReporter, LineReporter

ODD = [
    *(None, True, -1, 0, 2.5, 1e999, float("nan"), 1e300, -1e300, 2**64, 10**40, 10**9),
    *("", "x" * 10_000, "a\0b", "a\ud800b", "\x1b[31m", "1e999 epochs", "1e300 steps"),
    *([], [1] * 300, [0.5, 0.5], ["a"], [[1]], [None] * 3, [1, 1, 1, 10**12], {}, {"a": 1}),
]
READERS: dict[str, tuple[dict[str, Any], Callable[[Path], object]]] = {
    "config": (asdict(Config()), load_config),
    "model": ({"seresnext": tiny_spec().to_dict()}, lambda file: load_model(file.parent)),
    "artifact": (
        json.loads(artifact(tiny_spec()).to_json()),
        lambda file: read_artifact(file.read_text(), file),
    ),
}


def paths(data: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in data.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from paths(value, (*above, name))


def changed(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    copy = dict(data)
    copy[path[0]] = changed(data[path[0]], path[1:], value) if len(path) > 1 else value
    return copy


@pytest.mark.parametrize("kind", READERS)
def test_odd_values_are_accepted_or_refused_in_one_short_line(kind: str, tmp_path: Path) -> None:
    data, read = READERS[kind]
    file = tmp_path / "config.json"
    refused = 0
    for path in paths(data):
        for value in ODD:
            file.write_text(json.dumps(changed(data, path, value)))
            try:
                read(file)
            except UserError as error:
                text = str(error)
                assert text.isprintable(), (path, value)
                assert len(text) < 600, (path, text)
                refused += 1
    assert refused > 10 * len(list(paths(data)))


@pytest.mark.parametrize("kind", READERS)
def test_deep_nesting_is_refused(kind: str, tmp_path: Path) -> None:
    data, read = READERS[kind]
    for depth in (150, 900, 100_000):
        text = json.dumps(changed(data, next(paths(data)), "@"))
        (tmp_path / "config.json").write_text(
            text.replace('"@"', "[" * depth + "]" * depth), encoding="utf-8"
        )
        with pytest.raises(UserError):
            read(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 31}, "input.image_size: expected 32 or more, got 31"),
        ({"image_size": 4097}, "input.image_size: expected 4096 or less, got 4097"),
        ({"crop_ratio": 0.0}, "input.crop_ratio: expected more than 0, got 0.0"),
        ({"crop_ratio": 1e-4}, "expected 0.0273 or more for 224 px, got 0.0001: images would be"),
        ({"std": (0.2, 0.2, 0.0)}, "input.std: expected 0.0001 or more, got 0.0"),
        ({"mean": (0.5,) * 2}, "input.mean: expected 3 numbers"),
        ({"interpolation": "lanczos"}, "expected one of bilinear, bicubic, got 'lanczos'"),
    ],
)
def test_input_ranges(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        InputSpec(**fields)
    assert message in str(caught.value)


def test_a_network_is_refused_by_its_cost() -> None:
    for fields in ({"layers": (128,) * 4}, {"base_width": 999}, {"num_classes": 10**6}):
        with pytest.raises(UserError, match=r"the network would have .* parameters, more than"):
            architecture("seresnext50_32x4d", **fields)
    wide = architecture("seresnext50_32x4d", num_classes=1, base_width=16)
    ModelSpec(wide, ("a",), InputSpec(224))
    with pytest.raises(UserError, match=r"takes 7.52 GB for one image of 4096 px"):
        ModelSpec(wide, ("a",), InputSpec(4096))


def test_a_batch_is_refused_by_its_memory() -> None:
    config = Config()
    with pytest.raises(UserError, match=r"run.batch_size: expected 1 to 57065 images"):
        replace(config, run=replace(config.run, batch_size=10**6)).check()


def test_texts_are_shown_escaped() -> None:
    assert printable("\x1b[2J\r\n\x9b1m\u202e\ud800") == r"\x1b[2J\r\n\x9b1m\u202e\ud800"
    plain = "grün 黑色　猫 \N{FAMILY}"
    assert printable(plain) == plain
    assert str(UserError("no class \x1b[31m")) == r"no class \x1b[31m"


def test_names_from_files_reach_no_terminal_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;owned\x07[red]"
    spec = tiny_spec(classes=(evil, "b"))
    save_model(tmp_path / "model", spec, random_weights(spec))
    image = tmp_path / f"{evil}.png"
    Image.fromarray(random_images(1, 32)[0]).save(image)
    (tmp_path / f"{evil}.jpg").touch()
    done = run_cli("predict", tmp_path / "model", image, tmp_path / f"{evil}.jpg", code=1)
    assert "]0;owned" in done.stdout
    assert "]0;owned" in done.stderr
    assert (done.stdout + done.stderr).replace("\n", "").isprintable()
    LineReporter().message(evil)
    BarReporter().message(evil)
    table = capsys.readouterr().out
    assert table.count("[red]") == 2
    assert "\x1b" not in table
