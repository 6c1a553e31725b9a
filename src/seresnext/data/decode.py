"""Bytes -> upright uint8 RGB. The one place where images are decoded.

Formats are told by content, never by name: JPEG, PNG, WebP, BMP. What becomes of them:

- EXIF orientation 1-8 is applied.
- Alpha, and a transparent colour or palette entry, is composited on white.
- CMYK (in JPEG, stored inverted as Adobe does): R = (255 - C) (255 - K) / 255, and so on.
- Embedded colour profiles are not applied.
- 16-bit grey is divided by 257 and rounded; 16-bit colour keeps its high byte.
- Of an animation the first frame counts.

Files that end early are refused, however much of the picture could be shown, and so is damage
that can be told: by libjpeg's warnings, by a PNG's checksums.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from .jpeg import ImageError, Jpeg, segments
from .orientation import orientation, upright

# Decoding runs in many threads at once; OpenCV's own would only get in their way.
cv2.setNumThreads(1)
# Pillow warns of a damaged animation header; the first frame is all that is wanted.
warnings.filterwarnings("ignore", message="Invalid APNG", category=UserWarning)

_FOREIGN = {
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"%PDF": "a PDF",
    b"<htm": "a web page",
    b"<HTM": "a web page",
    b"<!do": "a web page",
    b"<!DO": "a web page",
    b"<svg": "an SVG",
    b"<?xm": "an XML file",
}


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class OpenImage:
    """An image whose size is known. A JPEG is not decoded yet, anything else is."""

    width: int
    """Pixels, upright."""
    height: int
    """Pixels, upright."""
    _jpeg: Jpeg | None = None
    _pixels: np.ndarray | None = None

    def pixels(self) -> np.ndarray:
        """All of it, uint8 [height, width, 3]. Raises ImageError."""
        if self._jpeg is None:
            assert self._pixels is not None
            return self._pixels
        return self._jpeg.decode(1)

    def crop(self, box: Box, at_least: int) -> np.ndarray:
        """A rectangle of it, for training: only as much is decoded as that needs.

        The result may be 1/2, 1/4 or 1/8 of the box (to the nearest pixel) where both its sides
        stay `at_least` so long: a JPEG's blocks are then transformed to fewer pixels, which is
        faster and antialiased. Otherwise it is that part of `pixels()`. Raises ImageError, but
        may miss damage below the box; a file that ends early is always noticed.
        """
        if self._jpeg is None:
            image, factor = self.pixels(), 1
        else:
            short = min(box.width, box.height)
            factor = next((f for f in (8, 4, 2) if f * at_least <= short), 1)
            image = self._jpeg.decode(factor, box.y + box.height)
        x, right = ((2 * v + factor) // (2 * factor) for v in (box.x, box.x + box.width))
        y, bottom = ((2 * v + factor) // (2 * factor) for v in (box.y, box.y + box.height))
        return image[y : max(bottom, y + 1), x : max(right, x + 1)]


def open_image(data: bytes, max_pixels: int) -> OpenImage:
    """Recognise an image and learn its size. Raises ImageError.

    One of more than `max_pixels` is refused from its header, before memory is taken for it.
    """
    kind = _kind(data)
    if kind != "JPEG":
        return _decoded(*_load(kind, data, max_pixels))
    turned, exif, height_at = segments(data)
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # a subsampling that TurboJPEG has no name for, or damage
        # Pillow reads the tags of an EXIF block by itself, and warns of damaged ones.
        stored, _ = _load(kind, data[: exif.start] + data[exif.stop :], max_pixels)
        return _decoded(stored, turned)
    _check_size(width, height, max_pixels)
    jpeg = Jpeg(data, width, height, color in ("CMYK", "YCCK"), turned, height_at)
    if turned > 4:
        width, height = height, width
    return OpenImage(width, height, jpeg)


def decode_image(data: bytes, *, max_pixels: int) -> np.ndarray:
    """Decode to upright uint8 RGB [H, W, 3], contiguous. Raises ImageError."""
    return open_image(data, max_pixels).pixels()


def _kind(data: bytes) -> str:
    """JPEG, PNG, WebP or BMP, from the first bytes."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM"):
        return "BMP"
    if not data:
        raise ImageError("empty file")
    found = _FOREIGN.get(data.lstrip()[:4], "no image that is known")
    raise ImageError(f"{found}; expected JPEG, PNG, WebP or BMP")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels; at most {max_pixels} are read (data.max_pixels)"
        )


# What Pillow decodes ------------------------------------------------------------------------

_PILLOW: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
}


def _load(kind: str, data: bytes, max_pixels: int) -> tuple[np.ndarray, int]:
    """Decode with Pillow: RGB as stored, and its EXIF orientation. Raises ImageError.

    The plugins are used by themselves, because `Image.open` applies a pixel limit and warnings of
    its own, which are global.
    """
    if kind == "WebP":  # its decoder takes memory for the picture when it is opened
        _check_size(*_webp_size(data), max_pixels)
    if kind == "PNG":
        _check_png(data)
    try:
        image = _PILLOW[kind](io.BytesIO(data))
        _check_size(*image.size, max_pixels)
        image.load()
        exif = image.info.get("exif", b"")
        return _rgb(image), orientation(exif.removeprefix(b"Exif\0\0"))
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # on damaged files Pillow raises whatever it ran into
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"damaged {kind}: {reason}") from None


def _decoded(stored: np.ndarray, turned: int) -> OpenImage:
    pixels = upright(stored, turned)
    return OpenImage(pixels.shape[1], pixels.shape[0], _pixels=pixels)


def _check_png(data: bytes) -> None:
    """Every chunk is whole and has its checksum, up to the last. Pillow stops looking earlier."""
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if end > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise ImageError(f"damaged PNG: wrong checksum of chunk {name!r}")
        if name == b"IEND":
            return
        at = end
    raise ImageError("damaged PNG: file ends early")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the first chunk (RFC 9649, sections 2.5 to 2.7)."""
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


def _rgb(image: Image.Image) -> np.ndarray:
    """The rules of this module's head."""
    if image.mode.startswith("I"):
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        image = white
    return np.array(image.convert("RGB"))


def decode_pillow(image: Image.Image, *, max_pixels: int) -> np.ndarray:
    """Return an open Pillow image as upright uint8 RGB [H, W, 3]. Raises ImageError."""
    _check_size(*image.size, max_pixels)
    return upright(_rgb(image), image.getexif().get(0x0112, 1))
