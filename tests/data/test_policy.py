"""Augmentation policies: operations against Pillow's, tables against timm's and torchvision's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from seresnext.config import AugmentConfig
from seresnext.config.policy import Policy, parse_policy
from seresnext.data import operations, policy
from seresnext.data.augment import augment
from seresnext.data.order import sample_rng
from seresnext.errors import UserError

Make = Callable[..., np.ndarray]
PLAIN = AugmentConfig(image_size=48, hflip=0.0, color_jitter=(0.0, 0.0, 0.0, 0.0))
FILL = (124, 116, 104)


def pillow(name: str, image: Image.Image, argument: float) -> Image.Image:
    """The operation as timm and torchvision make it with Pillow."""
    affine = {
        "ShearX": (1, argument, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, argument, 1, 0),
        "TranslateX": (1, 0, argument * image.width, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, argument * image.height),
    }
    bilinear = Image.Resampling.BILINEAR
    if name in affine:
        return image.transform(
            image.size, Image.Transform.AFFINE, affine[name], bilinear, fillcolor=FILL
        )
    if name == "SolarizeAdd":
        return image.point([i + min(argument, 255 - i) if i < 128 else i for i in range(256)] * 3)
    made = {
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Posterize": lambda: ImageOps.posterize(image, int(argument)),
        "Solarize": lambda: ImageOps.solarize(image, argument),
        "Rotate": lambda: image.rotate(argument, bilinear, fillcolor=FILL),
        "Color": lambda: ImageEnhance.Color(image).enhance(argument),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(argument),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(argument),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(argument),
        "Identity": lambda: image,
    }
    return made[name]()


def ours(name: str, image: np.ndarray, argument: float | None) -> np.ndarray:
    operation = (policy.INCREASING | policy.TRIVIAL)[name]
    arguments = [] if argument is None else [argument]
    return operation.apply(image, *arguments, *([FILL] if operation.fills else []))


def difference(
    name: str, photo: np.ndarray, argument: float | None, perturbed: float = 0
) -> np.ndarray:
    """Absolute difference in levels, but for the pixels beside the colour that is filled in."""
    theirs = 0 if argument is None else argument + perturbed
    reference = np.asarray(pillow(name, Image.fromarray(photo), theirs))
    apart = np.abs(ours(name, photo, argument).astype(int) - reference).max(-1)
    filled = Image.fromarray((reference == FILL).all(-1)).convert("L")
    return apart[np.asarray(filled.filter(ImageFilter.MaxFilter(5))) == 0]


ARGUMENTS = {
    "Posterize": (1, 4, 7),
    "Solarize": (0, 60, 128, 255),
    "SolarizeAdd": (0, 40, 110),
    "Rotate": (-30.0, 7.5, 100.0),
    **dict.fromkeys(("ShearX", "ShearY"), (-0.3, 0.11, 0.99)),
    **dict.fromkeys(("TranslateX", "TranslateY"), (-0.45, 0.123)),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), (0.01, 0.6, 1.0, 1.9)),
}
EXACT = ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd")


@pytest.mark.parametrize("name", [*policy.INCREASING, "Identity"])
def test_agrees_with_pillow(photo: Make, name: str) -> None:
    for image in (photo(96, 64), photo(96, 64) // 3 + 50, np.full((64, 96, 3), 77, np.uint8)):
        before = image.copy()
        for argument in ARGUMENTS.get(name, (None,)):
            apart = difference(name, image, argument)
            assert apart.size > 1000
            assert apart.mean() < (0.001 if name in EXACT else 1.1)
            assert np.quantile(apart, 0.99) <= (0 if name in EXACT else 3)
        assert np.array_equal(image, before)


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "Posterize"])
def test_another_argument_is_seen(photo: Make, name: str) -> None:
    argument = ARGUMENTS[name][1]
    step = {"Solarize": 30, "SolarizeAdd": 4, "Rotate": 2.0}.get(name, 0.05)
    assert difference(name, photo(96, 64), argument, step).mean() > 1


@pytest.mark.parametrize("increasing", [0, 1])
def test_randaugment_has_the_operations_and_ranges_of_timm(increasing: int) -> None:
    pytest.importorskip("engines.timm_reference", reason="needs timm")
    from timm.data.auto_augment import _RAND_INCREASING_TRANSFORMS, _RAND_TRANSFORMS, LEVEL_TO_ARG

    table = policy.INCREASING if increasing else policy.MIXED
    theirs = _RAND_INCREASING_TRANSFORMS if increasing else _RAND_TRANSFORMS
    assert list(table) == [name.removesuffix("Increasing").removesuffix("Rel") for name in theirs]
    for operation, name in zip(table.values(), theirs, strict=True):
        for magnitude in (0, 1, 4.3, 6, 7, 9.99, 10):
            if LEVEL_TO_ARG[name] is None:
                assert operation.argument is None
                continue
            assert operation.argument is not None
            expected = {
                round(LEVEL_TO_ARG[name](magnitude, {})[0], 9) for _ in range(30)
            }  # it draws the sign
            found = {round(operation.argument(magnitude / 10, sign), 9) for sign in (1, -1)}
            assert found == expected, name


def test_autoaugment_is_timms() -> None:
    pytest.importorskip("engines.timm_reference", reason="needs timm")
    from timm.data.auto_augment import auto_augment_policy_original

    theirs = auto_augment_policy_original({})
    assert len(theirs) == len(policy.AUTO) == 25
    for pair, expected in zip(policy.AUTO, theirs, strict=True):
        for (name, probability, magnitude), step in zip(pair, expected, strict=True):
            assert (name, probability, magnitude) == (
                step.name.removesuffix("Original"),
                step.prob,
                step.magnitude,
            )
            argument = policy.AUTO_OPERATIONS[name].argument
            if argument is None:
                assert step.level_fn is None
            else:
                level = abs(step.level_fn(magnitude, {})[0])
                assert abs(argument(magnitude / 10, 1)) == pytest.approx(level)


def test_trivialaugment_has_the_ranges_of_the_paper() -> None:
    """Table 7 of arXiv:2103.10158, from the weakest to the strongest of 31 levels."""
    largest = {
        "Rotate": 135,
        "Color": 1.99,
        "Contrast": 1.99,
        "Brightness": 1.99,
        "Sharpness": 1.99,
        "ShearX": 0.99,
        "ShearY": 0.99,
        "TranslateX": 32 / 224,
        "TranslateY": 32 / 224,
        "Posterize": 2,
        "Solarize": 0,
    }
    weakest = {"Posterize": 8, "Solarize": 255, **dict.fromkeys(operations_around_one(), 1)}
    with_arguments = {n: o.argument for n, o in policy.TRIVIAL.items() if o.argument}
    assert with_arguments.keys() == largest.keys()
    assert len(policy.TRIVIAL) == 14
    for name, argument in with_arguments.items():
        assert argument(1.0, 1) == pytest.approx(largest[name])
        assert argument(0.0, 1) == weakest.get(name, 0)


def operations_around_one() -> tuple[str, ...]:
    return ("Color", "Contrast", "Brightness", "Sharpness")


def drawn(text: str, images: int) -> list[list[policy.Chosen]]:
    found = parse_policy(text)
    assert found is not None
    count = policy.draws_of(found)
    return [
        policy.choose(found, sample_rng(0, 0, index).random(count).tolist())
        for index in range(images)
    ]


def test_each_operation_is_drawn_equally_often() -> None:
    names = {id(operation): name for name, operation in policy.INCREASING.items()}
    chosen = drawn("rand-m7-n3-mstd0.5-inc1", 4000)
    counts = Counter(names[id(each.operation)] for image in chosen for each in image)
    expected = 4000 * 3 * 0.5 / 15
    assert counts.keys() == policy.INCREASING.keys()
    assert all(abs(n - expected) < 5 * math.sqrt(expected) for n in counts.values()), counts
    layers = Counter(map(len, chosen))
    assert [layers[n] / 4000 for n in range(4)] == pytest.approx(
        [1 / 8, 3 / 8, 3 / 8, 1 / 8], abs=0.03
    )
    degrees = [e.argument for c in chosen for e in c if names[id(e.operation)] == "Rotate"]
    assert np.mean(np.sign(degrees)) == pytest.approx(0, abs=0.2)
    assert np.mean(np.abs(degrees)) == pytest.approx(21, abs=0.3)
    assert np.std(np.abs(degrees)) == pytest.approx(1.5, abs=0.3)


def test_uniform_magnitudes_and_none() -> None:
    arguments = {}
    for text in ("rand-m8-n1-p1-mstd101-inc1", "rand-m8-n1-p1-inc1"):
        chosen = [c for c in drawn(text, 3000) if c[0].operation is policy.INCREASING["Rotate"]]
        arguments[text] = np.abs([c[0].argument for c in chosen])
    uniform, fixed = arguments.values()
    assert uniform.min() < 3
    assert uniform.mean() == pytest.approx(12, abs=1.5)
    assert fixed == pytest.approx(np.full(len(fixed), 24))


def test_autoaugment_and_trivialaugment_draw_all() -> None:
    for text, table in (("auto", policy.AUTO_OPERATIONS), ("trivial", policy.TRIVIAL)):
        chosen = {id(each.operation) for image in drawn(text, 2000) for each in image}
        reachable = {name for pair in policy.AUTO for name, p, _ in pair if p}
        names = reachable if text == "auto" else table.keys()
        assert chosen == {id(table[name]) for name in names}
    assert all(len(image) == 1 for image in drawn("trivial", 50))
    rotated = [
        abs(c[0].argument)
        for c in drawn("trivial", 5000)
        if c[0].operation is policy.TRIVIAL["Rotate"]
    ]
    assert {round(a / 135 * 30, 9) for a in rotated} == set(range(31))


def test_an_empty_policy_leaves_every_other_draw(photo: Make) -> None:
    """Shift, colour and erasing are drawn as without the policy; p0 draws but applies nothing."""
    image = photo(120, 90)
    config = replace(PLAIN, shift=3, hflip=0.5, color_jitter=(0.4, 0.4, 0.4, 0.1), erase=0.5)
    for index in range(20):
        plain = augment(image, config, sample_rng(0, 0, index))
        same = augment(image, replace(config, policy="rand-p0"), sample_rng(0, 0, index))
        assert np.array_equal(plain, same)


def test_the_policy_is_repeated_for_the_same_coordinates(photo: Make) -> None:
    config = replace(PLAIN, policy="rand-m9-n4-p1-mstd1-inc1")
    image = photo(120, 90)
    first, again, other = (augment(image, config, sample_rng(0, 1, index)) for index in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@settings(max_examples=60, deadline=None)
@given(
    text=st.one_of(
        st.sampled_from(["auto", "trivial"]),
        st.builds(
            "rand-m{}-n{}-p1-mstd{}-inc{}".format,
            *(st.integers(0, 10), st.integers(1, 8), st.sampled_from([0, 0.5, 200])),
            st.integers(0, 1),
        ),
    ),
    size=st.integers(32, 40),
    index=st.integers(0, 10**6),
)
def test_any_policy_on_any_image(photo: Make, text: str, size: int, index: int) -> None:
    config = replace(PLAIN, policy=text, image_size=size)
    for image in (photo(5, 7), np.zeros((1, 1, 3), np.uint8)):
        out = augment(image, config, sample_rng(0, 0, index))
        assert (out.shape, out.dtype) == ((size, size, 3), np.uint8)


@pytest.mark.parametrize(
    "text",
    [
        *("rand-m1..2", "rand-", "auto-mstd0.5", " trivial", "rand-m7-m"),
        "random",
        "rand-m11",
        "rand-n0",
        "rand-n2.5",
        "rand-m7-x3",
        "rand-p2",
        "rand-inc2",
        "rand-m1e3",
    ],
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"augment.policy: expected trivial, auto, or rand with"):
        AugmentConfig(policy=text)


def test_the_parts_of_the_text() -> None:
    assert parse_policy("") is None
    assert parse_policy("rand-m7-mstd0.5-inc1") == Policy("rand", 7, 2, 0.5, 0.5, True)
    assert parse_policy("rand-n3-p0.8-mstd101") == Policy("rand", 10, 3, 0.8, math.inf, False)


def test_operations_that_find_nothing_to_do(photo: Make) -> None:
    flat = np.full((8, 8, 3), 9, np.uint8)
    assert np.array_equal(operations.autocontrast(flat), flat)
    assert np.array_equal(operations.equalize(flat), flat)
