from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from seresnext.errors import UserError
from seresnext.zoo.preprocess import write_labels


def labels(data: Path, out: Path, names: tuple[str, ...] | None) -> dict[str, int]:
    return json.loads(write_labels(data, out, names).read_text())


@pytest.fixture
def animals(tmp_path: Path, digits: Path) -> Path:
    """Class folders cat and dog with an image each."""
    for digit, name in enumerate(("cat", "dog")):
        (tmp_path / "animals" / name).mkdir(parents=True)
        shutil.copy(
            digits / "val" / str(digit) / "0.png", tmp_path / "animals" / name / f"{name}.png"
        )
    return tmp_path / "animals"


def test_classes_of_the_model_number_the_labels(animals: Path, tmp_path: Path) -> None:
    """Whatever folders there are: without them the order of the folders would decide."""
    names = ("dog", "bird", "cat")
    assert labels(animals, tmp_path / "out", names) == {"cat.png": 2, "dog.png": 0}
    assert labels(animals, tmp_path / "out", None) == {"cat.png": 0, "dog.png": 1}


def test_a_folder_that_is_no_class_of_the_model_is_refused(animals: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class folders that are no known class: dog"):
        write_labels(animals, tmp_path / "out", ("cat", "bird"))


def test_a_model_without_names_takes_those_of_the_folders(animals: Path, tmp_path: Path) -> None:
    assert labels(animals, tmp_path / "out", ("0", "1")) == {"cat.png": 0, "dog.png": 1}
    with pytest.raises(UserError, match=r"has 3 classes without names, .* has 2 class folders"):
        write_labels(animals, tmp_path / "out", ("0", "1", "2"))


def test_classes_that_are_called_by_numbers_are_names(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits / "val", tmp_path / "val")
    shutil.rmtree(tmp_path / "val" / "1")
    names = tuple(map(str, range(10)))
    found = labels(tmp_path / "val", tmp_path / "out", names)
    assert set(found.values()) == {0, 2, 3}
