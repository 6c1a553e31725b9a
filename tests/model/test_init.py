"""Starting weights and the noise of training: distributions, and that they repeat."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from seresnext.model.architecture import architecture, weight_shapes
from seresnext.model.init import init_weights
from seresnext.model.noise import draw_noise

ARCH = architecture("seresnext26_32x4d", num_classes=10)


def test_weights_have_the_shapes_and_order_of_the_network() -> None:
    weights = init_weights(ARCH, 0)
    assert {k: v.shape for k, v in weights.items()} == weight_shapes(ARCH)
    assert list(weights) == list(weight_shapes(ARCH))
    assert {v.dtype for v in weights.values()} == {np.dtype(np.float32)}


def test_distributions() -> None:
    weights = init_weights(ARCH, 0)
    for name, value in weights.items():
        if value.ndim == 4 and ".se." not in name:
            fan_out = value.shape[0] * value.shape[2] * value.shape[3]
            assert value.std() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05), name
            assert abs(value.mean()) < 0.05 * value.std() + 3 * value.std() / math.sqrt(value.size)
        elif ".se." in name or name.startswith("fc."):
            layer = name.rsplit(".", 1)[0]
            bound = 1 / math.sqrt(math.prod(weights[f"{layer}.weight"].shape[1:]))
            assert np.abs(value).max() <= bound, name
            assert np.abs(value).max() > 0.5 * bound, name


@pytest.mark.parametrize("zero", [True, False])
def test_batch_norm_starts_as_identity_or_zero(zero: bool) -> None:
    arch = architecture("seresnext26_32x4d", num_classes=2, zero_init_last_bn=zero)
    for name, value in init_weights(arch, 0).items():
        if value.ndim == 1 and ".se." not in name and not name.startswith("fc."):
            expected = 1.0 if name.endswith((".weight", "running_var")) else 0.0
            if zero and name.endswith("bn3.weight"):
                expected = 0.0
            assert (value == expected).all(), name


def test_weights_are_golden() -> None:
    """The same seed gives the same weights on every machine and version of NumPy."""
    digest = hashlib.sha256()
    for name, value in init_weights(ARCH, 0).items():
        digest.update(name.encode())
        digest.update(np.round(value.astype(np.float64), 5).tobytes())
    assert digest.hexdigest()[:16] == "1b2b3b1ae602ec06"
    again, other = init_weights(ARCH, 0), init_weights(ARCH, 1)
    assert (again["conv1.weight"] == init_weights(ARCH, 0)["conv1.weight"]).all()
    assert (again["conv1.weight"] != other["conv1.weight"]).mean() > 0.99


def test_noise_is_absent_where_there_is_none() -> None:
    assert draw_noise(ARCH, 4, 0) == {}


def test_noise_keeps_the_mean_and_drops_at_the_rate() -> None:
    arch = architecture("seresnext26_32x4d", drop_path=0.4, dropout=0.25)
    noise = draw_noise(arch, 4000, seed=3)
    rates = np.array([b.drop_path for b in arch.blocks()])
    assert noise["drop_path"].shape == (4000, 8)
    assert noise["dropout"].shape == (4000, 2048)
    assert noise["drop_path"].dtype == noise["dropout"].dtype == np.float32
    np.testing.assert_allclose((noise["drop_path"] == 0).mean(0), rates, atol=0.03)
    np.testing.assert_allclose(noise["drop_path"].mean(0), 1, atol=0.05)
    assert (noise["dropout"] == 0).mean() == pytest.approx(0.25, abs=0.002)
    assert np.unique(noise["dropout"]).tolist() == [0, np.float32(1) / np.float32(0.75)]


def test_noise_is_a_function_of_its_seed() -> None:
    arch = architecture("seresnext26_32x4d", drop_path=0.5)
    first, same, other = (draw_noise(arch, 8, s)["drop_path"] for s in (5, 5, 6))
    assert (first == same).all()
    assert (first != other).any()
    golden = ["11111111", "11110001", "11101111"]
    assert ["".join("01"[int(x > 0)] for x in row) for row in first[:3]] == golden
