"""Decoding: formats by content, a defined RGB, and a reason for everything refused."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngImageFile

from seresnext.data.decode import Box, ImageError, decode_image, open_image

MAX = 10**8
Make = Callable[..., np.ndarray]
Encode = Callable[..., bytes]


def decode(data: bytes) -> np.ndarray:
    image = decode_image(data, max_pixels=MAX)
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    opened = open_image(data, MAX)
    assert image.shape == (opened.height, opened.width, 3)
    return image


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


class TestFormats:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("PNG", {}),
            ("BMP", {}),
            ("WebP", {"lossless": True}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
        ],
    )
    def test_lossless(self, photo: Make, encode: Encode, kind: str, options: dict) -> None:
        image = photo(61, 47)
        found = decode(encode(image, kind, **options)).astype(int)
        assert np.abs(found - image).max() <= (3 if kind == "AVIF" else 0)

    @pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_jpeg_equals_pillow(
        self, photo: Make, encode: Encode, subsampling: str, progressive: bool
    ) -> None:
        data = encode(photo(61, 47), "JPEG", subsampling=subsampling, progressive=progressive)
        assert np.array_equal(decode(data), pillow(data))

    def test_lossy_webp_equals_pillow(self, photo: Make, encode: Encode) -> None:
        data = encode(photo(61, 47), "WebP")
        assert np.array_equal(decode(data), pillow(data))

    @pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "PPM", "TGA"])
    def test_others_are_refused(self, photo: Make, encode: Encode, kind: str) -> None:
        with pytest.raises(ImageError, match="expected JPEG, PNG, WebP, AVIF, HEIC, GIF, TIFF"):
            decode(encode(photo(16, 16), kind))

    def test_gif(self, photo: Make, encode: Encode) -> None:
        image = Image.fromarray(photo(61, 47)).quantize(64)
        data = encode(image, "GIF", save_all=True, append_images=[image.rotate(90)])
        assert np.array_equal(decode(data), np.asarray(image.convert("RGB")))
        clear = image.getpixel((0, 0))
        found = decode(encode(image, "GIF", transparency=clear))
        assert (found[np.asarray(image) == clear] == 255).all()

    def test_heic(self, photo: Make, encode: Encode) -> None:
        heif = pytest.importorskip("pillow_heif")
        image, buffer = photo(64, 48), io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        picture = heif.from_pillow(Image.fromarray(image))
        picture.save(buffer, quality=95, chroma=444, exif=exif.tobytes())
        found = decode(buffer.getvalue()).astype(int)
        assert np.abs(found - np.rot90(image, -1)).mean() < 4
        with pytest.raises(ImageError, match="damaged HEIC"):
            decode(buffer.getvalue()[:-200])
        with pytest.raises(ImageError, match=r"\d\d x \d\d pixels; at most 3000"):
            decode_image(buffer.getvalue(), max_pixels=3000)

    def test_heic_without_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(ImageError, match=r"HEIC, which needs pip install 'seresnext\[heic\]'"):
            decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty file"),
            (b"\0" * 1000, "no image that is known"),
            (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
            (b"<html>", "a web page"),
            (b"GIF89a", "damaged GIF"),
            (b"II*\0aaaa", "damaged TIFF"),
            (b"\xff\x0a\0", "JPEG XL, which is not read; convert it to JPEG or PNG"),
            (b"\0\0\0\x0cjP  ", "JPEG 2000, which is not read; convert"),
            (b"\0\0\0\x18ftypisom", "a video"),
            (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
            (b"\xff\xd8", "no image that is known"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    def test_reasons(self, data: bytes, reason: str) -> None:
        with pytest.raises(ImageError, match=reason):
            decode(data)

    def test_first_frame_of_an_animation(self, photo: Make, encode: Encode) -> None:
        first, second = (Image.fromarray(photo(32, 24, seed=s)) for s in (0, 1))
        for kind, options in (("PNG", {}), ("WebP", {"lossless": True})):
            data = encode(first, kind, save_all=True, append_images=[second], **options)
            assert np.array_equal(decode(data), np.asarray(first)), kind


class TestModes:
    def test_grey(self, photo: Make, encode: Encode) -> None:
        grey = Image.fromarray(photo(30, 20)).convert("L")
        expected = np.repeat(np.asarray(grey)[..., None], 3, 2)
        for kind in ("PNG", "BMP"):
            assert np.array_equal(decode(encode(grey, kind)), expected)
        data = encode(grey, "JPEG")
        assert np.array_equal(decode(data), pillow(data))

    def test_one_bit(self, photo: Make, encode: Encode) -> None:
        image = Image.fromarray(photo(30, 20)).convert("1")
        expected = np.repeat(255 * np.asarray(image)[..., None].astype(np.uint8), 3, 2)
        assert np.array_equal(decode(encode(image)), expected)
        assert np.array_equal(decode(encode(image, "BMP")), expected)

    def test_palette(self, photo: Make, encode: Encode) -> None:
        image = Image.fromarray(photo(30, 20)).quantize(16)
        for kind in ("PNG", "BMP"):
            assert np.array_equal(decode(encode(image, kind)), np.asarray(image.convert("RGB")))

    def test_alpha_is_composited_on_white(self, photo: Make, encode: Encode) -> None:
        rgb = photo(64, 64).astype(float)
        alpha = np.arange(64 * 64).reshape(64, 64, 1) % 256
        expected = rgb * alpha / 255 + 255 - alpha
        image = np.concatenate([rgb, alpha], -1).astype(np.uint8)
        for kind, options in (("PNG", {}), ("WebP", {"lossless": True, "exact": True})):
            found = decode(encode(image, kind, **options))
            assert np.abs(found - expected).max() <= 0.5 + 1e-9, kind

    def test_grey_with_alpha(self, encode: Encode) -> None:
        image = Image.merge("LA", [Image.new("L", (2, 1), 100), Image.new("L", (2, 1), 0)])
        image.putpixel((1, 0), (100, 255))
        assert decode(encode(image)).tolist() == [[[255] * 3, [100] * 3]]

    def test_transparent_color_and_palette_entry(self, encode: Encode) -> None:
        rgb = Image.new("RGB", (2, 1), (10, 20, 30))
        rgb.putpixel((1, 0), (1, 2, 3))
        assert decode(encode(rgb, transparency=(10, 20, 30))).tolist() == [[[255] * 3, [1, 2, 3]]]
        palette = rgb.quantize(2)
        clear = palette.getpixel((0, 0))
        for transparency in (clear, bytes(0 if k == clear else 255 for k in range(2))):
            found = decode(encode(palette, transparency=transparency))
            assert found.tolist() == [[[255] * 3, [1, 2, 3]]]

    def test_16_bit_grey_is_scaled(self, encode: Encode) -> None:
        levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        expected = np.rint(levels / 257)
        found = decode(encode(Image.fromarray(levels)))
        assert np.array_equal(found, np.repeat(expected[..., None], 3, 2))

    def test_16_bit_color_keeps_the_high_byte(self) -> None:
        levels = np.linspace(0, 65535, 48).astype(">u2").reshape(1, -1, 3)
        assert np.array_equal(decode(png(levels, bits=16, color=2)), levels >> 8)

    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    def test_transparent_color_at_every_depth(self, depth: int) -> None:
        """Grey levels, of which the second is transparent."""
        levels = np.arange(1 << min(depth, 4)) * (1 if depth < 16 else 4369)
        if depth == 16:
            rows = levels[None, :, None].astype(">u2")
        else:
            bits = "".join(f"{level:0{depth}b}" for level in levels)
            packed = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2)
            rows = np.frombuffer(packed.to_bytes(-(-len(bits) // 8)), np.uint8).reshape(1, -1, 1)
        key = struct.pack(">H", int(levels[1]))
        expected = np.rint(levels * 255 / ((1 << depth) - 1)).astype(int)
        expected[1] = 255
        found = decode(png(rows, depth, 0, width=len(levels), clear=key))
        assert found[0, :, 0].tolist() == expected.tolist()

    def test_transparent_16_bit_color(self) -> None:
        """Two colours that differ in their low bytes only; the second is transparent."""
        rows = np.array([[[258, 772, 1286], [259, 772, 1286], [40000, 1, 2]]], ">u2")
        data = png(rows, 16, 2, clear=rows[0, 1].tobytes())
        assert decode(data).tolist() == [[[1, 3, 5], [255] * 3, [156, 0, 0]]]

    def test_16_bit_alpha(self) -> None:
        rgba = png(np.array([[[65535, 0, 0, 0], [65535, 0, 0, 65535]]], ">u2"), 16, 6)
        assert decode(rgba).tolist() == [[[255] * 3, [255, 0, 0]]]
        grey = png(np.array([[[0, 0], [0, 65535]]], ">u2"), 16, 4)
        assert decode(grey).tolist() == [[[255] * 3, [0] * 3]]

    def test_16_bit_tiff(self, encode: Encode) -> None:
        levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        found = decode(encode(Image.fromarray(levels), "TIFF"))
        assert np.array_equal(found[..., 0], np.rint(levels / 257))
        with pytest.raises(ImageError, match="more than 16 bits"):
            decode(encode(Image.fromarray(levels.astype(np.float32)), "TIFF"))

    @pytest.mark.parametrize("quality", [75, 100])
    def test_cmyk(self, encode: Encode, quality: int) -> None:
        rng = np.random.default_rng(0)
        cmyk = Image.fromarray(rng.integers(0, 256, (16, 16, 4), np.uint8), "CMYK")
        data = encode(cmyk, "JPEG", quality=quality)
        stored = np.asarray(Image.open(io.BytesIO(data))).astype(float)
        expected = (255 - stored[..., :3]) * (255 - stored[..., 3:]) / 255
        assert np.abs(decode(data) - expected).max() <= 1

    def test_color_profile_is_not_applied(self, photo: Make, encode: Encode) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        image = photo(20, 20)
        assert np.array_equal(decode(encode(image, icc_profile=profile)), image)

    def test_unusual_jpeg_sampling(self, encode: Encode) -> None:
        """Luminance 3 x 1, which TurboJPEG has no name for. Each block is flat: DC +-0, end."""
        data = encode(Image.new("RGB", (24, 8), (128, 128, 128)), "JPEG", subsampling="4:4:4")
        sof, sos = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
        header = bytearray(data[: sos + 14])
        header[sof + 11] = 0x31
        bits = "001010" * 3 + "0000" * 2
        scan = int(bits.ljust(32, "1"), 2).to_bytes(4, "big")
        assert np.array_equal(
            decode(bytes(header) + scan + b"\xff\xd9"), np.full((8, 24, 3), 128, np.uint8)
        )
        with pytest.raises(ImageError):
            decode(bytes(header) + scan[:1])


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    """A chunk of a PNG, with the right checksum unless `crc` is given."""
    crc = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def png(rows: np.ndarray, bits: int, color: int, *, width: int = 0, clear: bytes = b"") -> bytes:
    """A PNG written by hand: [H, W, C] big-endian samples, or packed ones of `width` pixels."""
    height, width = rows.shape[0], width or rows.shape[1]
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", clear) if clear else b"")
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("JPEG", {}),
            ("PNG", {}),
            ("WebP", {"lossless": True}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("AVIF", {}),
        ],
    )
    def test_as_pillow_transposes(
        self, photo: Make, encode: Encode, kind: str, options: dict, orientation: int
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010F] = "A camera"
        data = encode(photo(40, 24), kind, exif=exif.tobytes(), **options)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        assert expected.size == ((40, 24) if orientation < 5 else (24, 40))
        assert np.array_equal(decode(data), np.asarray(expected))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_cmyk_and_reduced(self, photo: Make, encode: Encode, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(photo(40, 24))
        data = encode(image.convert("CMYK"), "JPEG", exif=exif.tobytes())
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        assert np.array_equal(decode(data), np.asarray(expected))
        data = encode(image, "JPEG", exif=exif.tobytes())
        whole = open_image(data, MAX)
        box = Box(0, 0, whole.width, whole.height)
        half = whole.crop(box, 12)
        small = Image.fromarray(decode(data)).reduce(2)
        assert half.shape == (small.height, small.width, 3)
        assert np.abs(half.astype(int) - np.asarray(small)).mean() < 6

    def test_big_endian_and_late_segment(self, photo: Make, encode: Encode) -> None:
        data = encode(photo(40, 24), "JPEG")
        tiff = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0" * 4
        segments = segment(0xED, b"Photoshop") + segment(0xE1, b"Exif\0\0" + tiff)
        turned = data[:2] + segments + data[2:]
        assert np.array_equal(decode(turned), np.rot90(decode(data), -1))

    @pytest.mark.parametrize(
        "tiff",
        [
            b"",
            b"II*\0",
            b"II*\0\xff\xff\xff\xff",
            b"II*\0\x08\0\0\0\xff\xff",
            b"XX*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0",
            b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",  # 9
            b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0\x06\0\0\0",  # text
        ],
    )
    @pytest.mark.parametrize("mode", ["RGB", "CMYK"])
    def test_damaged_exif_leaves_the_image(
        self, photo: Make, encode: Encode, tiff: bytes, mode: str
    ) -> None:
        data = encode(Image.fromarray(photo(40, 24)).convert(mode), "JPEG")
        with_exif = data[:2] + segment(0xE1, b"Exif\0\0" + tiff) + data[2:]
        assert np.array_equal(decode(with_exif), decode(data))


def segment(marker: int, payload: bytes) -> bytes:
    """A JPEG marker segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


class TestMetadata:
    """What describes a picture without changing it never decides whether it is read."""

    TEXT = b"Comment\0\0" + zlib.compress(bytes(70 << 20))  # Pillow refuses 64 MB of text

    @pytest.mark.parametrize(
        "extra",
        [
            chunk(b"tEXt", b"no end"),
            chunk(b"zTXt", TEXT),
            chunk(b"iTXt", b"x\0\1\0\0\0\xff\xff"),
            chunk(b"iCCP", b"name\0\0not zlib"),
            chunk(b"iCCP", b""),
            chunk(b"gAMA", b"\0"),
            chunk(b"cHRM", b"\0\0"),
            chunk(b"pHYs", b"\0" * 3),
            chunk(b"eXIf", b"II*\0\xff\xff"),
            chunk(b"acTL", b""),
            chunk(b"fcTL", b"\0"),
            chunk(b"tEXt", b"a\0b", crc=1),
            chunk(b"prVt", b"private"),
        ],
        ids=lambda extra: f"{extra[4:8].decode()}-{len(extra)}",
    )
    def test_of_png(self, photo: Make, encode: Encode, extra: bytes) -> None:
        image = photo(20, 16)
        data = encode(image)
        assert np.array_equal(decode(data[:33] + extra + data[33:]), image)
        assert np.array_equal(decode(data[:-12] + extra + data[-12:]), image)

    @pytest.mark.parametrize("mode", ["RGB", "CMYK"])
    @pytest.mark.parametrize(
        ("marker", "payload"),
        [
            (0xE2, b"ICC_PROFILE\0\1\2damaged"),
            (0xE2, b"MPF\0damaged"),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0<damaged"),
            (0xED, b"Photoshop 3.0\0" + b"8BIM\xff\xff\xff"),
            (0xFE, b"\xff\xfe a comment"),
        ],
    )
    def test_of_jpeg(
        self, photo: Make, encode: Encode, marker: int, payload: bytes, mode: str
    ) -> None:
        data = encode(Image.fromarray(photo(40, 24)).convert(mode), "JPEG")
        assert np.array_equal(decode(data[:2] + segment(marker, payload) + data[2:]), decode(data))

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    def test_of_tiff(self, photo: Make, encode: Encode) -> None:
        image = photo(20, 16)
        data = encode(image, "TIFF", tiffinfo={305: "software"})
        at = data.index(struct.pack("<HH", 305, 2))
        pointer = struct.pack("<HHII", 0x8769, 4, 1, 10**6)  # an EXIF folder behind the end
        assert np.array_equal(decode(data[:at] + pointer + data[at + 12 :]), image)

    def test_of_webp(self, photo: Make, encode: Encode) -> None:
        image = photo(20, 16)
        data = encode(image, "WebP", lossless=True, exif=b"II*\0\xff\xff", icc_profile=b"none")
        assert np.array_equal(decode(data), image)

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    def test_of_avif(self, photo: Make, encode: Encode) -> None:
        data = encode(photo(20, 16), "AVIF")
        exif = encode(photo(20, 16), "AVIF", exif=b"II*\0\xff\xff\xff\xff")
        assert np.array_equal(decode(exif), decode(data))


class TestDamage:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("PNG", {}),
            ("WebP", {}),
            ("WebP", {"lossless": True}),
            ("BMP", {}),
        ],
    )
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_truncated(
        self, photo: Make, encode: Encode, kind: str, options: dict, mode: str
    ) -> None:
        if mode == "CMYK" and kind != "JPEG":
            pytest.skip("only JPEG has CMYK")
        data = encode(Image.fromarray(photo(100, 80)).convert(mode), kind, **options)
        for keep in (20, 100, len(data) // 2, 9 * len(data) // 10, len(data) - 1):
            with pytest.raises(ImageError):
                decode(data[:keep])

    @pytest.mark.parametrize("at_least", [80, 40, 1])
    def test_truncated_jpeg_is_noticed_whatever_is_wanted_of_it(
        self, photo: Make, encode: Encode, at_least: int
    ) -> None:
        data = encode(photo(100, 80), "JPEG")
        for box in (Box(0, 0, 100, 80), Box(0, 0, 90, 2), Box(50, 60, 50, 20)):
            for keep in (len(data) - 2, len(data) // 2):
                with pytest.raises(ImageError, match="damaged JPEG: Premature end"):
                    open_image(data[:keep], MAX).crop(box, at_least)
            bad = data[: len(data) // 2] + b"\xff\xd9"
            if box.height > 2:
                with pytest.raises(ImageError, match=r"damaged JPEG: .*premature end"):
                    open_image(bad, MAX).crop(box, at_least)

    def test_interrupted_download(self, photo: Make, encode: Encode) -> None:
        """The file has its full size and zeros from the middle on. (WebP and BMP cannot tell.)"""
        for kind in ("JPEG", "PNG"):
            data = encode(photo(100, 80), kind)
            with pytest.raises(ImageError):
                decode(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))

    def test_flipped_bits_of_a_png_that_pillow_misses(self, photo: Make, encode: Encode) -> None:
        """Pillow alone decodes some to wrong pixels; if that count is 0 one day, drop our check."""
        whole = encode(photo(100, 75), "PNG", compress_level=1)
        pixels = decode(whole)
        rng = np.random.default_rng(0)
        wrong = []
        for at, bit in zip(
            rng.integers(8, len(whole), 1000), rng.integers(0, 8, 1000), strict=True
        ):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            with contextlib.suppress(Exception):
                if not np.array_equal(np.asarray(PngImageFile(io.BytesIO(data))), pixels):
                    wrong.append(bytes(data))
        assert len(wrong) >= 3
        for data in wrong:
            with pytest.raises(ImageError, match="damaged PNG: wrong checksum of chunk b'IDAT'"):
                decode(data)

    def test_harmless_oddities_are_read(self, photo: Make, encode: Encode) -> None:
        data = encode(photo(100, 80), "JPEG")
        expected = decode(data)
        version = data.index(b"JFIF") + 5
        for odd in (
            data + b"trailing" * 50,
            data[:-2] + b"\0" * 40 + data[-2:],
            data[:version] + b"\x09" + data[version + 1 :],
        ):
            assert np.array_equal(decode(odd), expected)

    def test_reason_is_one_line(self, photo: Make, encode: Encode) -> None:
        data = encode(photo(100, 80), "PNG")
        with pytest.raises(ImageError) as caught:
            decode(data[:200])
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("damaged PNG: ")

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:Image size:Warning")
    @settings(
        max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(draw=st.data())
    def test_damage_is_an_image_error_and_nothing_else(
        self, photo: Make, encode: Encode, draw: st.DataObject
    ) -> None:
        kind = draw.draw(st.sampled_from(["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF"]))
        mode = draw.draw(st.sampled_from(["RGB", "L", "P", "RGBA", "CMYK"]))
        mode = "RGB" if kind in ("JPEG", "BMP") and mode in ("P", "RGBA") else mode
        mode = "RGB" if kind != "JPEG" and mode == "CMYK" else mode
        mode = "P" if kind == "GIF" else mode
        data = bytearray(encode(Image.fromarray(photo(24, 20)).convert(mode), kind))
        for _ in range(draw.draw(st.integers(1, 4))):
            data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
        try:
            image = decode_image(bytes(data), max_pixels=10**6)
        except ImageError as error:
            reason = str(error)
        else:
            reason = ""
            assert image.shape[2] == 3
            assert image.dtype == np.uint8
        assert "\n" not in reason

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b""]), st.binary())
    def test_garbage(self, head: bytes, tail: bytes) -> None:
        with pytest.raises(ImageError):
            decode(head + tail)


def test_damaged_animation_header_does_not_warn(tmp_path, photo: Make, encode: Encode) -> None:
    """In a process of its own, since pytest replaces the filters that the module installs."""
    data = encode(photo(8, 8))
    frames = b"acTL" + bytes(8)
    chunk = struct.pack(">I", 8) + frames + struct.pack(">I", zlib.crc32(frames))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    code = (
        "import sys; from pathlib import Path; from seresnext.data.decode import decode_image\n"
        "print(decode_image(Path(sys.argv[1]).read_bytes(), max_pixels=100).shape)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, tmp_path / "a.png"],
        capture_output=True,
        text=True,
    )
    assert (run.stdout, run.stderr) == ("(8, 8, 3)\n", "")


BOMBS = """
import resource, struct, sys, zlib
from seresnext.data.decode import ImageError, decode_image

def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

side = 14000
packer = zlib.compressobj(9)
row = bytes(1 + side // 8)
packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
png = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed)
png += chunk(b"IEND", b"")
assert len(png) < 30_000
size = struct.pack("<I", 16382)[:3] * 2
vp8x = b"RIFF\\x40\\0\\0\\0WEBPVP8X\\x0a\\0\\0\\0\\0\\0\\0\\0" + size + bytes(40)
bits = 0x3FFE | 0x3FFE << 14
vp8l = b"RIFF\\x40\\0\\0\\0WEBPVP8L\\x20\\0\\0\\0\\x2f" + struct.pack("<I", bits) + bytes(40)
vp8 = b"RIFF\\x40\\0\\0\\0WEBPVP8 \\x20\\0\\0\\0"
vp8 += b"\\0\\0\\0\\x9d\\x01\\x2a\\xff\\x3f\\xff\\x3f" + bytes(40)
bmp = b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54)
bmp += struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(1000)
jpeg = open(sys.argv[1], "rb").read()
sof = jpeg.index(b"\\xff\\xc0") + 5
jpeg = jpeg[:sof] + struct.pack(">HH", 65500, 65500) + jpeg[sof + 4:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in (png, vp8x, vp8l, vp8, bmp, jpeg):
    try:
        decode_image(bomb, max_pixels=100_000_000)
    except ImageError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "MiB")
"""


def test_bombs_are_refused_from_their_header(tmp_path, photo: Make, encode: Encode) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(photo(32, 32), "JPEG"))
    run = subprocess.run(
        [sys.executable, "-c", BOMBS, tmp_path / "a.jpg"],
        capture_output=True,
        text=True,
        check=True,
    )
    *reasons, growth = run.stdout.splitlines()
    sizes = ["14000 x 14000", *["16383 x 16383"] * 3, "14000 x 14000", "65500 x 65500"]
    expected = [f"{s} pixels; at most 100000000 are read (--max-pixels)" for s in sizes]
    assert reasons == expected
    assert int(growth.split()[0]) < 10
    assert not run.stderr


class TestCrop:
    @pytest.mark.parametrize(
        "options",
        [
            {"subsampling": "4:4:4"},
            {"subsampling": "4:2:2"},
            {"subsampling": "4:2:0"},
            {"progressive": True},
            {"restart_marker_rows": 1},
        ],
    )
    def test_is_that_part_of_the_whole(
        self, photo: Make, encode: Encode, options: dict[str, object]
    ) -> None:
        """At any height, decoded no further than needed or not, odd sizes included."""
        image = photo(101, 139)
        for data in (encode(image, "JPEG", **options), encode(image, "PNG")):
            whole = decode(data)
            for y in range(0, 130, 3):
                for height in (1, 7, 139 - y):
                    box = Box(13, y, 51, min(height, 139 - y))
                    found = open_image(data, MAX).crop(box, 1000)
                    assert np.array_equal(found, whole[y : y + box.height, 13:64])

    @pytest.mark.parametrize("factor", [1, 2, 4, 8])
    @pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
    def test_reduced_is_that_part_of_the_reduced_whole(
        self, photo: Make, encode: Encode, factor: int, subsampling: str
    ) -> None:
        data = encode(photo(201, 333), "JPEG", subsampling=subsampling)
        opened = open_image(data, MAX)
        whole = opened.crop(Box(0, 0, 201, 333), 201 // factor)
        assert whole.shape == (int(333 / factor + 0.5), int(201 / factor + 0.5), 3)
        for y in range(0, 160, 8):
            box = Box(16, y, 120, 160)
            found = opened.crop(box, 120 // factor)
            assert found.shape == (160 // factor, 120 // factor, 3)
            x, top = 16 // factor, y // factor
            expected = whole[top : top + 160 // factor, x : x + 120 // factor]
            assert np.array_equal(found, expected)

    @pytest.mark.parametrize(
        ("at_least", "shape"),
        [
            (65, (96, 128)),
            (64, (96, 128)),
            (48, (48, 64)),
            (25, (48, 64)),
            (24, (24, 32)),
            (12, (12, 16)),
            (1, (12, 16)),
        ],
    )
    def test_never_below_the_size_asked_for(
        self, photo: Make, encode: Encode, at_least: int, shape: tuple[int, int]
    ) -> None:
        data = encode(photo(128, 96), "JPEG")
        assert open_image(data, MAX).crop(Box(0, 0, 128, 96), at_least).shape[:2] == shape

    @pytest.mark.parametrize("size", [(8, 3), (1, 9), (1, 1)])
    def test_never_empty(self, photo: Make, encode: Encode, size: tuple[int, int]) -> None:
        data = encode(photo(*size), "JPEG")
        box = Box(size[0] - 1, size[1] - 1, 1, 1)
        assert open_image(data, MAX).crop(box, 1).shape == (1, 1, 3)

    def test_reduced_is_the_mean_of_what_it_covers(self, photo: Make, encode: Encode) -> None:
        data = encode(photo(512, 384), "JPEG", quality=95, subsampling="4:4:4")
        for factor in (2, 4, 8):
            image = open_image(data, MAX).crop(Box(0, 0, 512, 384), 384 // factor)
            expected = np.asarray(Image.fromarray(decode(data)).reduce(factor))
            assert np.abs(image.astype(int) - expected).mean() < 4

    def test_other_formats_come_whole(self, photo: Make, encode: Encode) -> None:
        for kind in ("PNG", "WebP", "BMP"):
            image = open_image(encode(photo(64, 48), kind), MAX)
            assert image.crop(Box(0, 0, 64, 48), 1).shape == (48, 64, 3)

    def test_a_marker_out_of_place_is_noticed_anywhere(self, photo: Make, encode: Encode) -> None:
        data = bytearray(encode(photo(200, 300), "JPEG"))
        middle = len(data) // 2
        data[middle : middle + 2] = b"\xff\xd5"  # a restart marker where none belongs
        for box in (Box(0, 0, 200, 60), Box(0, 0, 200, 200), Box(0, 200, 200, 100)):
            with pytest.raises(ImageError, match="damaged JPEG"):
                open_image(bytes(data), MAX).crop(box, 1000)
