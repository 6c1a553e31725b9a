"""Training augmentation: golden draws, agreement with Pillow, and what each operation promises."""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from seresnext.config import AugmentConfig
from seresnext.data import augment as ops
from seresnext.data import operations
from seresnext.data.augment import augment, augment_encoded, mix_pair
from seresnext.data.decode import Box
from seresnext.data.order import pair_rng, sample_rng

Make = Callable[..., np.ndarray]
Encode = Callable[..., bytes]

PLAIN = AugmentConfig(hflip=0.0, color_jitter=(0.0, 0.0, 0.0, 0.0))
FULL = AugmentConfig(image_size=64, shift=3, rotate=10.0, erase=0.5)


def difference(a: np.ndarray, b: np.ndarray | Image.Image) -> np.ndarray:
    """Absolute difference in levels."""
    return np.abs(a.astype(int) - np.asarray(b))


def draws(seed: int, epoch: int, index: int) -> list[float]:
    return sample_rng(seed, epoch, index).random(ops._DRAWS).tolist()


class TestGolden:
    """Written down once, at (seed, epoch, index)."""

    def test_crops(self) -> None:
        at = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (42, 89, 1_281_166)]
        boxes = [ops.draw_crop(500, 375, AugmentConfig(), draws(*a)[ops._CROP]) for a in at]
        assert boxes == [
            Box(51, 4, 424, 367),
            Box(262, 5, 195, 233),
            Box(113, 25, 232, 288),
            Box(165, 0, 319, 364),
        ]

    def test_other_draws(self) -> None:
        u = draws(0, 0, 0)
        rest = [*u[ops._SHIFT], u[ops._ROTATE], u[ops._FLIP], *u[ops._COLOR], u[ops._ERASE][0]]
        assert rest == pytest.approx(
            [
                *(0.6502340455437163, 0.6843008508394621),
                0.19994640924630902,
                0.3841053161384057,
                *(0.22540887664776, 0.7967025789717715, 0.7471428499120304),
                *(0.7264724512509148, 0.28759390977276433),
                0.9159004703376801,
            ],
            abs=1e-15,
        )
        assert ops.draw_erase(replace(FULL, erase=1.0), u[ops._ERASE]) == Box(33, 22, 20, 32)

    def test_pixels(self, photo: Make) -> None:
        """Means of an augmented image's quadrants: loose, since processors round differently."""
        image = augment(photo(120, 90), FULL, sample_rng(0, 0, 0)).astype(float)
        quadrants = image.reshape(2, 32, 2, 32, 3).mean((1, 3, 4))
        assert quadrants == pytest.approx(np.array([[185.7, 105.7], [139.2, 141.8]]), abs=0.5)

    def test_mixing(self) -> None:
        weights = []
        for pair in range(3):
            a, b = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
            weights.append(mix_pair(a, b, replace(FULL, mixup=0.2, cutmix=1.0), pair_rng(0, pair)))
        assert weights == pytest.approx([0.9912109375, 0.9615372167418521, 0.422607421875])


class TestWhole:
    def test_same_coordinates_same_image(self, photo: Make) -> None:
        image = photo(120, 90)
        first = augment(image, FULL, sample_rng(1, 2, 3))
        assert first.shape == (64, 64, 3)
        assert first.dtype == np.uint8
        assert np.array_equal(first, augment(image, FULL, sample_rng(1, 2, 3)))
        assert not np.array_equal(first, augment(image, FULL, sample_rng(1, 2, 4)))

    def test_the_input_is_left_alone(self, photo: Make) -> None:
        image = photo(64, 64)
        before = image.copy()
        config = replace(FULL, crop_scale=(1.0, 1.0), erase=1.0, shift=0, rotate=0.0, hflip=0.0)
        augment(image, replace(config, color_jitter=(0.0,) * 4), sample_rng(0, 0, 0))
        assert np.array_equal(image, before)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10**6))
    def test_any_size(self, photo: Make, width: int, height: int, index: int) -> None:
        image = augment(photo(width, height), FULL, sample_rng(0, 0, index))
        assert image.shape == (64, 64, 3)

    def test_an_operation_switched_on_leaves_the_others_draws(self, photo: Make) -> None:
        image = photo(120, 90)
        plain = augment(image, replace(PLAIN, image_size=64), sample_rng(0, 0, 5))
        erased = augment(image, replace(PLAIN, image_size=64, erase=1.0), sample_rng(0, 0, 5))
        same = (plain == erased).all(-1)
        assert 0.6 < same.mean() < 1

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_encoded_is_augmented_as_decoded(self, photo: Make, encode: Encode, kind: str) -> None:
        """A JPEG too small to be reduced, and any PNG, give the very same pixels."""
        data = encode(photo(120, 90), kind)
        image = np.asarray(Image.open(io.BytesIO(data)))
        for index in range(20):
            expected = augment(image, FULL, sample_rng(0, 0, index))
            found = augment_encoded(data, FULL, sample_rng(0, 0, index), 10**6)
            assert np.array_equal(found, expected)

    def test_reduced_jpeg_shows_the_same_crop(self, photo: Make, encode: Encode) -> None:
        """At 1/2 to 1/8 the crop lies within half a reduced pixel of where it was chosen."""
        image = photo(1200, 900)
        data = encode(image, "JPEG", quality=95)
        config = replace(PLAIN, image_size=64)
        for index in range(20):
            expected = augment(image, config, sample_rng(0, 0, index))
            found = augment_encoded(data, config, sample_rng(0, 0, index), 10**7)
            other = augment(image, config, sample_rng(0, 0, index + 1))
            error = difference(found, expected).mean()
            assert error < 9
            assert error < difference(other, expected).mean() / 3


class TestCrop:
    @settings(deadline=None)
    @given(
        width=st.integers(1, 2000),
        height=st.integers(1, 2000),
        index=st.integers(0, 10**6),
        scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    )
    def test_lies_inside(self, width: int, height: int, index: int, scale) -> None:
        config = AugmentConfig(crop_scale=scale)
        box = ops.draw_crop(width, height, config, draws(0, 0, index)[ops._CROP])
        assert 0 <= box.x <= width - box.width < width
        assert 0 <= box.y <= height - box.height < height

    def test_distribution(self) -> None:
        """Area uniform in 8 to 100 %, ratio log-uniform, on an image where every try fits."""
        config = AugmentConfig(crop_scale=(0.08, 0.5))
        u = [draws(0, 0, i)[ops._CROP] for i in range(2000)]
        boxes = [ops.draw_crop(1000, 1000, config, v) for v in u]
        area = np.array([b.width * b.height for b in boxes]) / 1e6
        ratio = np.log([b.width / b.height for b in boxes]) / math.log(4 / 3)
        x = np.array([b.x / (1000 - b.width) for b in boxes])
        for values, low, high in ((area, 0.08, 0.5), (ratio, -1, 1), (x, 0, 1)):
            scaled = (values - low) / (high - low)
            assert scaled.min() > -0.01
            assert scaled.max() < 1.01
            assert abs(scaled.mean() - 0.5) < 0.03
            assert abs(scaled.std() - math.sqrt(1 / 12)) < 0.02

    def test_whole_image(self) -> None:
        config = AugmentConfig(crop_scale=(1.0, 1.0))
        assert ops.draw_crop(70, 30, config, draws(0, 0, 0)[ops._CROP]) == Box(0, 0, 70, 30)

    @pytest.mark.parametrize(
        ("size", "box"),
        [
            ((1000, 100), Box(433, 0, 133, 100)),
            ((100, 1000), Box(0, 433, 100, 133)),
            ((1, 1000), Box(0, 499, 1, 1)),
        ],
    )
    def test_falls_back_to_the_centre(self, size: tuple[int, int], box: Box) -> None:
        config = AugmentConfig(crop_scale=(0.9, 1.0))
        assert ops.draw_crop(*size, config, draws(0, 0, 0)[ops._CROP]) == box


class TestResize:
    """Against Pillow's BILINEAR, antialiased when shrinking."""

    @pytest.mark.parametrize(
        ("size", "mean", "most"),
        [
            ((64, 64), 0, 0),
            ((40, 50), 0.3, 1),  # enlarging: equal but for rounding
            ((20, 20), 0.3, 1),
            ((70, 66), 1.5, 40),
            ((96, 96), 2.0, 45),
            ((128, 128), 0.5, 20),
            ((160, 120), 1.5, 45),
            ((256, 320), 1.0, 25),
            ((700, 500), 1.0, 25),
        ],
    )
    def test_agrees_with_pillow(
        self, photo: Make, size: tuple[int, int], mean: float, most: int
    ) -> None:
        image = photo(*size)
        expected = Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)
        error = difference(ops.resize(image, 64), expected)
        assert error.mean() <= mean
        assert error.max() <= most

    @pytest.mark.parametrize("factor", [1.0, 1.2, 1.5, 1.9, 2.0, 2.5, 3.0, 4.7, 9.3])
    def test_antialias_kernel_has_the_variance_of_the_wanted_triangle(self, factor: float) -> None:
        kernel = ops._antialias(round(ops._STEPS * factor))
        at = np.arange(len(kernel)) - len(kernel) // 2
        assert kernel.sum() == 1
        assert (kernel >= 0).all()
        assert kernel @ at**2 == pytest.approx((factor**2 - 1) / 6, rel=0.05, abs=0.03)

    def test_does_not_alias(self) -> None:
        """Stripes finer than the result can show become grey."""
        stripes = np.zeros((64, 1000, 3), np.uint8)
        stripes[:, ::2] = 255
        result = ops.resize(stripes, 64)
        assert difference(result[:, 2:-2], np.full((64, 60, 3), 127)).max() < 12

    def test_keeps_brightness(self) -> None:
        for width, height in ((64, 64), (100, 70), (333, 128), (40, 200)):
            flat = np.full((height, width, 3), 201, np.uint8)
            assert (ops.resize(flat, 64) == 201).all()

    def test_strip_as_long_as_the_pixel_limit_allows(self) -> None:
        """Its blur alone would take an hour."""
        strip = np.full((1, 3_000_000, 3), 201, np.uint8)
        assert (ops.resize(strip, 32) == 201).all()


class TestGeometry:
    @pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (-2, 5), (-64, 1), (7, -7)])
    def test_shift_repeats_the_edge(self, photo: Make, dx: int, dy: int) -> None:
        image = photo(64, 64)
        y = np.clip(np.arange(64) - dy, 0, 63)[:, None]
        x = np.clip(np.arange(64) - dx, 0, 63)[None]
        assert np.array_equal(operations.shift(image, dx, dy), image[y, x])

    def test_shift_reaches_both_ends(self) -> None:
        config = replace(PLAIN, image_size=32, crop_scale=(1.0, 1.0), shift=1)
        image = np.zeros((32, 32, 3), np.uint8)
        image[16, 16] = 255
        places = {
            tuple(np.argwhere(augment(image, config, sample_rng(0, 0, i))[..., 0])[0])
            for i in range(100)
        }
        assert places == {(y, x) for y in (15, 16, 17) for x in (15, 16, 17)}

    @pytest.mark.parametrize("degrees", [-30.0, -7.0, 5.0, 90.0, 180.0])
    def test_rotation_agrees_with_pillow(self, photo: Make, degrees: float) -> None:
        image = photo(64, 64)
        expected = Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR)
        inside = slice(12, 52)
        error = difference(operations.rotate(image, degrees), expected)[inside, inside]
        assert np.median(error) <= 1
        assert error.mean() < 1

    def test_rotation_repeats_the_edge(self) -> None:
        assert (operations.rotate(np.full((64, 64, 3), 90, np.uint8), 45.0) == 90).all()

    def test_flip_probability(self, photo: Make) -> None:
        image = photo(64, 64)
        for p, low, high in ((0.0, 0, 0), (0.5, 75, 125), (1.0, 200, 200)):
            config = replace(PLAIN, image_size=64, crop_scale=(1.0, 1.0), hflip=p)
            flipped = 0
            for i in range(200):
                result = augment(image, config, sample_rng(0, 0, i))
                flipped += np.array_equal(result, image[:, ::-1])
            assert low <= flipped <= high


class TestColor:
    @pytest.mark.parametrize("factor", [0.0, 0.6, 0.97, 1.0, 1.2, 1.4, 2.0])
    @pytest.mark.parametrize(
        ("operation", "enhancer"),
        [
            (operations.brightness, ImageEnhance.Brightness),
            (operations.contrast, ImageEnhance.Contrast),
            (operations.saturation, ImageEnhance.Color),
        ],
    )
    def test_agrees_with_pillow(self, photo: Make, operation, enhancer, factor: float) -> None:
        """Within one level: Pillow cuts fractions off, we round."""
        image = photo(90, 60)
        expected = enhancer(Image.fromarray(image)).enhance(factor)
        assert difference(operation(image, factor), expected).max() <= 1

    @pytest.mark.parametrize("turn", [-0.5, -0.1, -0.03, 0.0, 0.05, 0.1, 0.5])
    def test_hue_is_that_of_colorsys(self, photo: Make, turn: float) -> None:
        image = photo(40, 30)
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3) / 255]
        rgb = [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in hsv]
        expected = np.rint(255 * np.array(rgb)).reshape(image.shape)
        assert difference(operations.hue(image, turn), expected).max() <= 1

    @pytest.mark.parametrize("turn", [-0.1, 0.05, 0.1])
    def test_hue_agrees_with_pillow(self, photo: Make, turn: float) -> None:
        """Pillow's HSV has 8 bits a channel, whose rounding makes up the difference."""
        image = photo(90, 60)
        h, s, v = Image.fromarray(image).convert("HSV").split()
        turned = ((np.asarray(h).astype(int) + int(turn * 255)) % 256).astype(np.uint8)
        expected = Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")
        error = difference(operations.hue(image, turn), expected)
        assert error.mean() < 2
        assert error.max() <= 14

    def test_jitter_is_these_operations_in_the_order_drawn(self, photo: Make) -> None:
        image = photo(64, 64)
        u = [0.1, 0.2, 0.3, 0.9, 0.8]
        first = ops._ORDERS[int(0.1 * 24)]
        assert first == (0, 2, 1, 3)
        expected = operations.brightness(image, 0.6 + 0.2 * 0.8)
        expected = operations.saturation(expected, 0.8 + 0.9 * 0.4)
        expected = operations.contrast(expected, 0.7 + 0.3 * 0.6)
        expected = operations.hue(expected, -0.1 + 0.8 * 0.2)
        found = ops.color_jitter(image, (0.4, 0.3, 0.2, 0.1), u)
        assert difference(found, expected).max() <= 1

    def test_all_orders_occur(self) -> None:
        orders = {ops._ORDERS[int(draws(0, 0, i)[ops._COLOR][0] * 24)] for i in range(400)}
        assert len(orders) == 24


class TestThreeAugment:
    @pytest.mark.parametrize("strength", [0.0, 0.3, 0.99])
    def test_agrees_with_pillow(self, photo: Make, strength: float) -> None:
        image = photo(96, 64)
        pillow = Image.fromarray(image)
        blurred = pillow.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * strength))
        grey = pillow.convert("L").convert("RGB")
        ours = [make(image, strength) for make in ops.THREE]
        assert difference(ours[0], grey).max() <= 1
        assert difference(ours[1], ImageOps.solarize(pillow)).max() == 0
        assert difference(ours[2], blurred).mean() < 1.5  # three boxes

    def test_each_is_drawn_equally_often_and_again_the_same(self, photo: Make) -> None:
        config = replace(PLAIN, crop_scale=(1.0, 1.0), image_size=32, three_augment=0.75)
        image = photo(32, 32)
        plain = [image, operations.grey(image), operations.solarize(image, 128)]
        counts = [0] * 4
        for index in range(1200):
            out = augment(image, config, sample_rng(0, 1, index))
            same = [np.array_equal(out, each) for each in plain]
            counts[same.index(True) if any(same) else 3] += 1
        assert all(240 < count < 360 for count in counts), counts
        first, again = (augment(image, config, sample_rng(5, 2, 7)) for _ in range(2))
        assert np.array_equal(first, again)


class TestErasing:
    def test_share_and_shape(self) -> None:
        config = replace(PLAIN, erase=0.25)
        boxes = [ops.draw_erase(config, draws(0, 0, i)[ops._ERASE]) for i in range(2000)]
        found = [box for box in boxes if box]
        assert 0.2 < len(found) / 2000 < 0.3
        for box in found:
            assert 0.015 < box.width * box.height / 224**2 < 0.34
            assert 0.28 < box.height / box.width < 3.5
            assert 0 <= box.x <= 224 - box.width
            assert 0 <= box.y <= 224 - box.height

    def test_fills_with_the_mean_color(self, photo: Make) -> None:
        image = photo(64, 64)
        color = ops.mean_color(PLAIN)
        assert color.tolist() == [124, 116, 104]
        erased = operations.erase(image, Box(10, 20, 30, 8), color)
        assert (erased[20:28, 10:40] == color).all()
        erased[20:28, 10:40] = image[20:28, 10:40]
        assert np.array_equal(erased, image)


class TestMixing:
    def pair(self, photo: Make) -> tuple[np.ndarray, np.ndarray]:
        return photo(64, 64, seed=1), photo(64, 64, seed=2)

    @pytest.mark.parametrize("pair", range(5))
    def test_mixup(self, photo: Make, pair: int) -> None:
        a, b = self.pair(photo)
        mixed_a, mixed_b = a.copy(), b.copy()
        weight = mix_pair(mixed_a, mixed_b, replace(PLAIN, mixup=0.8), pair_rng(0, pair))
        assert 0 <= weight <= 1
        expected = weight * a + (1 - weight) * b
        assert np.abs(mixed_a - expected).max() <= 0.51
        assert np.abs(mixed_b - (weight * b + (1 - weight) * a)).max() <= 0.51

    @pytest.mark.parametrize("pair", range(20))
    def test_cutmix(self, photo: Make, pair: int) -> None:
        a, b = self.pair(photo)
        mixed_a, mixed_b = a.copy(), b.copy()
        weight = mix_pair(mixed_a, mixed_b, replace(PLAIN, cutmix=1.0), pair_rng(0, pair))
        own = (mixed_a == a).all(-1)
        foreign = (mixed_a == b).all(-1)
        assert (own | foreign).all()
        own &= ~foreign | (a == b).all(-1)
        assert own.mean() == pytest.approx(weight, abs=0.002)
        assert np.array_equal(np.where(own[..., None], b, a), mixed_b)

    def test_with_both_each_pair_draws_one(self, photo: Make) -> None:
        cut = 0
        for pair in range(200):
            a, b = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
            mix_pair(a, b, replace(PLAIN, mixup=1.0, cutmix=1.0), pair_rng(0, pair))
            cut += set(np.unique(a)) <= {0, 200}
        assert 75 < cut < 125

    def test_weights_follow_beta(self) -> None:
        image = np.zeros((32, 32, 3), np.uint8)
        for alpha in (0.2, 1.0):
            config = replace(PLAIN, mixup=alpha)
            weights = [mix_pair(image, image, config, pair_rng(0, i)) for i in range(2000)]
            assert abs(np.mean(weights) - 0.5) < 0.04
            assert np.var(weights) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)
