from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seresnext.errors import UserError
from seresnext.zoo.preprocess import flat_names, result_name, write_labels


def labels(data: Path, out: Path, names: tuple[str, ...] | None) -> dict[str, int]:
    labels = write_labels(data, out, names)
    assert json.loads((out / "imagenet_label.json").read_text()) == labels
    return labels


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


# File names ----------------------------------------------------------------------------------


def test_unique_names_stay_as_they_are() -> None:
    assert flat_names(["n01/ILSVRC2012_val_00000293.JPEG", "n02/ILSVRC2012_val_00000236.JPEG"]) == {
        "n01/ILSVRC2012_val_00000293.JPEG": "ILSVRC2012_val_00000293.JPEG",
        "n02/ILSVRC2012_val_00000236.JPEG": "ILSVRC2012_val_00000236.JPEG",
    }


def test_shared_names_get_their_folder() -> None:
    assert flat_names(["cats/1.jpg", "dogs/1.jpg", "dogs/2.jpg"]) == {
        "cats/1.jpg": "cats__1.jpg",
        "dogs/1.jpg": "dogs__1.jpg",
        "dogs/2.jpg": "2.jpg",
    }


def test_endings_do_not_tell_results_apart() -> None:
    names = flat_names(["cats/1.jpg", "cats/1.png"])
    assert names == {"cats/1.jpg": "cats__1.jpg", "cats/1.png": "cats__1__2.png"}
    assert [result_name(name) for name in names.values()] == [
        "cats__1_0.bin",
        "cats__1__2_0.bin",
    ]


def test_a_name_that_is_taken_gets_a_number() -> None:
    names = flat_names(["a/1.jpg", "b/1.jpg", "b/a__1.jpg"])
    assert names == {"a/1.jpg": "a__1__2.jpg", "b/1.jpg": "b__1.jpg", "b/a__1.jpg": "a__1.jpg"}


part = st.text("ab_1.", min_size=1, max_size=4).filter(lambda text: text not in (".", ".."))
path = st.builds("{}/{}{}".format, part, part, st.sampled_from([".jpg", ".png"]))


@given(st.lists(path, unique=True, max_size=12))
def test_no_two_images_share_a_result(paths: list[str]) -> None:
    names = flat_names(paths)
    assert set(names) == set(paths)
    assert len({result_name(name) for name in names.values()}) == len(paths)
    stems = [PurePosixPath(p).stem for p in paths]
    for one in paths:
        if stems.count(PurePosixPath(one).stem) == 1:
            assert names[one] == PurePosixPath(one).name
    assert flat_names(reversed(paths)) == names
