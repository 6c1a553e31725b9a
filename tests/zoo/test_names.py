from __future__ import annotations

from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from seresnext.zoo.names import flat_names, result_name


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
