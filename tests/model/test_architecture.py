"""The family against published counts, and the rules that its description follows."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from seresnext.config.recipes import recipe
from seresnext.errors import UserError
from seresnext.model.architecture import (
    MODEL_NAMES,
    Architecture,
    architecture,
    count_macs,
    count_parameters,
    is_buffer,
    weight_shapes,
)
from seresnext.schema import from_dict


@pytest.mark.parametrize(
    ("name", "millions"),
    # timm's results table (results-imagenet.csv, param_count).
    [
        ("seresnext50_32x4d", 27.56),
        ("seresnext26d_32x4d", 16.81),
        ("seresnext101_32x4d", 48.96),
        ("seresnext101_64x4d", 88.23),
    ],
)
def test_parameters_as_published(name: str, millions: float) -> None:
    assert round(count_parameters(architecture(name)) / 1e6, 2) == millions


def test_parameters_exactly() -> None:
    assert count_parameters(architecture("seresnext50_32x4d")) == 27_559_896
    assert count_parameters(recipe("zoo").model.architecture(1000)) == 27_543_792  # the original


@pytest.mark.parametrize(
    ("name", "size", "published"),
    # timm's results table (macs, G). It also counts BN, pooling and gates, which is 1 % here.
    [
        ("seresnext50_32x4d", 224, 4.26),
        ("seresnext50_32x4d", 288, 7.04),
        ("seresnext101_32x4d", 224, 8.02),
        ("seresnext101_64x4d", 224, 15.53),
        ("seresnext26d_32x4d", 224, 2.73),
    ],
)
def test_multiply_accumulates_as_published(name: str, size: int, published: float) -> None:
    ours = count_macs(architecture(name), size) / 1e9
    assert ours == pytest.approx(published, rel=0.012)
    assert ours < published


def test_widths_of_the_paper() -> None:
    """ResNeXt-50 32x4d (arXiv:1611.05431, table 1) with SE reduction 16."""
    blocks = list(architecture("seresnext50_32x4d").blocks())
    assert [b.width for b in blocks] == [128] * 3 + [256] * 4 + [512] * 6 + [1024] * 3
    assert [b.out_channels for b in blocks] == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    assert [b.se_channels for b in blocks] == [16] * 3 + [32] * 4 + [64] * 6 + [128] * 3
    assert [i for i, b in enumerate(blocks) if b.stride == 2] == [3, 7, 13]
    assert [i for i, b in enumerate(blocks) if b.has_downsample] == [0, 3, 7, 13]


def test_stochastic_depth_grows_linearly() -> None:
    rates = [b.drop_path for b in architecture("seresnext50_32x4d", drop_path=0.3).blocks()]
    assert rates == pytest.approx([0.3 * k / 15 for k in range(16)])


def test_se_width_is_a_multiple_of_eight() -> None:
    for reduction in (3, 16, 1000):
        for block in architecture("seresnext26_32x4d", se_reduction=reduction).blocks():
            assert block.se_channels % 8 == 0
            assert block.se_channels >= 8
            assert abs(block.se_channels - block.out_channels / reduction) <= 8


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_shapes_agree_with_the_count(name: str) -> None:
    arch = architecture(name, num_classes=11)
    shapes = weight_shapes(arch)
    trained = sum(math.prod(s) for n, s in shapes.items() if not is_buffer(n))
    assert trained == count_parameters(arch)
    assert sum(map(is_buffer, shapes)) == 2 * sum(n.endswith("running_mean") for n in shapes)
    assert shapes["fc.weight"] == (11, 2048)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_description_survives_json(name: str) -> None:
    arch = architecture(name, num_classes=3, max_pool="same", drop_path=0.1)
    data = json.loads(json.dumps(dataclasses.asdict(arch)))
    assert from_dict(Architecture, data) == arch


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 2, 3)}, r"model\.layers: expected four counts"),
        ({"cardinality": 0}, r"model\.cardinality: expected 1 or more, got 0"),
        ({"drop_path": 1.0}, r"model\.drop_path: expected less than 1, got 1\.0"),
        ({"dropout": -0.1}, r"model\.dropout"),
    ],
)
def test_wrong_fields_are_named(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        architecture("seresnext50_32x4d", **fields)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"unknown model 'resnet50'; the family is seresnext26"):
        architecture("resnet50")
    with pytest.raises(UserError, match=r"model\.depth: no such field; the fields here are name"):
        from_dict(Architecture, {"name": "seresnext50_32x4d", "depth": 50})
