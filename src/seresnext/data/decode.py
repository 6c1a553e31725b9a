"""Bytes -> upright uint8 RGB. All images are decoded here.

Formats are recognised by content, never by name: JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP, and HEIC
with the package pillow-heif. Rules:

- EXIF orientation 1-8 is applied.
- Alpha, and a transparent colour or palette entry, is composited on white, at every bit depth.
- CMYK (in JPEG, stored inverted as Adobe does): R = (255 - C) (255 - K) / 255, and so on.
- 16-bit grey is divided by 257 and rounded; 16-bit colour, or grey with alpha, keeps its high
  byte.
- Of an animation, or several pages, the first is decoded.
- What describes a picture without changing it (text, colour profiles, gamma, physical size) is not
  looked at, be it large or damaged.

Files that end early are refused, however much of the picture could be shown, and so are files
that libjpeg's warnings or a PNG's checksums show to be damaged.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from .formats import CONVERT, described, recognise
from .jpeg import ImageError, Jpeg, segments, without_metadata
from .png import Png, parse_png, wide_colors

__all__ = ["Box", "ImageError", "OpenImage", "decode_image", "open_image"]

# Decoding runs in many threads at once; OpenCV's own would compete with them.
cv2.setNumThreads(1)
# Pillow warns of oddities in what is not looked at.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else errors go to stderr, too
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class OpenImage:
    """An image whose size is known. A JPEG is not decoded yet, any other format is."""

    width: int
    """Pixels, upright."""
    height: int
    """Pixels, upright."""
    _stored: Jpeg | NDArray[np.uint8]
    """As in the file."""
    _orientation: int
    """EXIF orientation, 1 (upright) to 8."""

    def pixels(self) -> NDArray[np.uint8]:
        """Return all of it, uint8 [height, width, 3]. Raises ImageError."""
        return self._upright(1, 0)

    def crop(self, box: Box, at_least: int) -> NDArray[np.uint8]:
        """Return a rectangle of it, uint8 [h, w, 3], decoding only as much as that needs.

        The result may be reduced to 1/2, 1/4 or 1/8 of the box (to the nearest pixel) where both
        sides stay at least `at_least` pixels: JPEG blocks are then transformed to fewer pixels,
        which is faster and antialiased. Otherwise it is that part of `pixels()`. Raises
        ImageError, but may miss damage below the box; a file that ends early is always noticed.
        """
        short = min(box.width, box.height)
        reducible = isinstance(self._stored, Jpeg)
        factor = next((f for f in (8, 4, 2) if reducible and f * at_least <= short), 1)
        image = self._upright(factor, box.y + box.height)
        x, right = ((2 * v + factor) // (2 * factor) for v in (box.x, box.x + box.width))
        y, bottom = ((2 * v + factor) // (2 * factor) for v in (box.y, box.y + box.height))
        return image[y : max(bottom, y + 1), x : max(right, x + 1)]

    def _upright(self, factor: int, rows: int) -> NDArray[np.uint8]:
        """Decode at 1 / `factor`; rows below the upper `rows` may be missing, unless that is 0."""
        pixels = self._stored
        if isinstance(pixels, Jpeg):
            pixels = pixels.decode(factor, rows if self._orientation == 1 else 0)
        return upright(pixels, self._orientation)


def open_image(data: bytes, max_pixels: int) -> OpenImage:
    """Recognise an image and find its size. Raises ImageError.

    One of more than `max_pixels` is refused from its header, before memory is taken for it.
    """
    kind = _kind(data)
    if kind != "JPEG":
        return _opened(*_load(kind, data, max_pixels))
    exif, height_at = segments(data)
    orientation = read_orientation(data[exif][10:])
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # a subsampling that TurboJPEG has no name for, or damage
        stored, _ = _load(kind, without_metadata(data), max_pixels)
        return _opened(stored, orientation)
    _check_size(width, height, max_pixels)
    jpeg = Jpeg(data, width, height, color in ("CMYK", "YCCK"), height_at)
    if orientation > 4:
        width, height = height, width
    return OpenImage(width, height, jpeg, orientation)


def decode_image(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode to upright uint8 RGB [H, W, 3], contiguous. Raises ImageError."""
    return open_image(data, max_pixels).pixels()


def _kind(data: bytes) -> str:
    """Return the format, from the first bytes. Raises ImageError for one that is not read."""
    kind = recognise(data)
    if not kind:
        raise ImageError(described(data))
    return kind


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels; at most {max_pixels} are read (--max-pixels)")


# What Pillow decodes ------------------------------------------------------------------------


class _Tiff(TiffImageFile):
    """Without reading further folders of tags, whose damage would refuse the picture."""

    def load_end(self) -> None:
        self._size = self.im.size


def _heic(file: io.BytesIO) -> Image.Image:
    """Open a HEIC image. Raises ImageError without the package for it."""
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(f"HEIC, which needs pip install 'seresnext[heic]'; or {CONVERT}") from None
    options = pillow_heif.options
    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    return pillow_heif.HeifImageFile(file)


_PILLOW: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "HEIC": _heic,
    "GIF": GifImageFile,
    "TIFF": _Tiff,
    "BMP": BmpImageFile,
}


def _load(kind: str, data: bytes, max_pixels: int) -> tuple[NDArray[np.uint8], int]:
    """Decode with Pillow; return RGB as stored, and the EXIF orientation. Raises ImageError.

    The plugins are called directly, because `Image.open` applies a pixel limit and warnings of
    its own, which are global.
    """
    if kind == "PNG":
        return _load_png(parse_png(data), max_pixels)
    if kind == "WebP":  # its decoder allocates the picture when it is opened
        _check_size(*_webp_size(data), max_pixels)
    with _pillow(kind, data, max_pixels) as image:
        if isinstance(image, _Tiff):
            orientation = image.tag_v2.get(_ORIENTATION, 1)
        else:
            exif = image.info.get("exif") or b""
            orientation = read_orientation(exif.removeprefix(b"Exif\0\0"))
        return _rgb(image), orientation


def _load_png(png: Png, max_pixels: int) -> tuple[NDArray[np.uint8], int]:
    """Decode a PNG as `_load` does; pixels of the transparent colour become white."""
    _check_size(png.width, png.height, max_pixels)
    orientation = read_orientation(png.exif)
    if png.clear and png.depth == 16 and not png.grey:
        samples: NDArray[Any] = wide_colors(png)
        rgb = (samples >> 8).astype(np.uint8)
    else:
        with _pillow("PNG", png.data, max_pixels) as image:
            rgb = _rgb(image)
            samples = np.asarray(image) if png.depth == 16 and png.grey else rgb
    if png.clear:
        levels = (1 << png.depth) - 1
        clear = [key * 255 // levels if png.depth < 8 else key for key in png.clear]
        samples = samples if samples.ndim == 3 else samples[..., None]
        rgb[(samples == np.array(clear)).all(-1)] = 255
    return rgb, orientation


@contextmanager
def _pillow(kind: str, data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Yield the image that Pillow has decoded; errors in the block are ImageErrors, too."""
    try:
        image = _PILLOW[kind](io.BytesIO(data))
        _check_size(*image.size, max_pixels)
        image.load()
        yield image
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow raise errors of any type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"damaged {kind}: {reason}") from None


def _opened(stored: NDArray[np.uint8], orientation: int) -> OpenImage:
    pixels = upright(stored, orientation)
    return OpenImage(pixels.shape[1], pixels.shape[0], pixels, 1)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk (RFC 9649, sections 2.5 to 2.7)."""
    if len(data) < 30:
        raise ImageError("damaged WebP: file ends in its header")
    match data[12:16]:
        case b"VP8X":
            return (
                int.from_bytes(data[24:27], "little") + 1,
                int.from_bytes(data[27:30], "little") + 1,
            )
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case _:
            raise ImageError("damaged WebP: unknown first chunk")


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Convert to RGB by the rules in this module's docstring."""
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image)
        if image.mode == "F" or levels.min() < 0 or levels.max() > 0xFFFF:
            raise ImageError(f"pixels of more than 16 bits or below 0; {CONVERT}")
        grey = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        grey[levels == image.info.get("transparency", -1)] = 255
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        image = white
    return np.array(image.convert("RGB"))


_ORIENTATION = 0x0112
"""Tag of EXIF and TIFF."""


def decode_pillow(image: Image.Image, *, max_pixels: int) -> NDArray[np.uint8]:
    """Return an open Pillow image as upright uint8 RGB [H, W, 3]. Raises ImageError."""
    _check_size(*image.size, max_pixels)
    try:
        pixels = _rgb(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"damaged image: {' '.join(str(error).split())}") from None
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged block makes Pillow raise errors of any type
        orientation = 1
    return upright(pixels, orientation)


# EXIF orientation ---------------------------------------------------------------------------


def read_orientation(tiff: bytes) -> int:
    """Return the orientation of an EXIF block; 1 (upright) without one or in a damaged block."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _ORIENTATION:
                form = {1: "B", 3: "H", 4: "I"}[kind]
                (value,) = struct.unpack_from(f"{order}{form}", tiff, entry + 8)
                return value if 1 <= value <= 8 else 1
    except (struct.error, KeyError):
        pass
    return 1


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation (TIFF 6.0, p. 36)."""
    match orientation:
        case 2:
            return cv2.flip(pixels, 1)
        case 3:
            return cv2.flip(pixels, -1)
        case 4:
            return cv2.flip(pixels, 0)
        case 5:
            return cv2.transpose(pixels)
        case 6:
            return cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)
        case 7:
            return cv2.flip(cv2.transpose(pixels), -1)
        case 8:
            return cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)
        case _:
            return pixels
