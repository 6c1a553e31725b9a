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


class ImageError(Exception):
    """Bytes that are no image we read. The message is the reason, on one line."""


@dataclass(frozen=True)
class OpenImage:
    """An image whose size is known. A JPEG is not decoded yet, anything else is."""

    width: int
    """Pixels, upright."""
    height: int
    """Pixels, upright."""
    _jpeg: bytes = b""
    _cmyk: bool = False
    _orientation: int = 1
    _pixels: np.ndarray | None = None

    def pixels(self, min_scale: float = 1.0) -> np.ndarray:
        """Decode to uint8 [height, width, 3].

        With `min_scale` below 1 a JPEG may come at 1/2, 1/4 or 1/8 of its size (rounded up), as
        long as that is not less than `min_scale`: its blocks are then transformed to fewer
        pixels, which is faster and antialiased. Raises ImageError.
        """
        if self._pixels is not None:
            return self._pixels
        factor = next((f for f in (8, 4, 2) if f * min_scale <= 1), 1)
        reduced = {}
        if factor > 1:
            width, height = -(-self.width // factor), -(-self.height // factor)
            if self._orientation > 4:
                width, height = height, width
            reduced = {"min_factor": factor, "min_width": width, "min_height": height}
        if self._cmyk:
            inverted = _decode_jpeg(self._jpeg, "CMYK", reduced).astype(np.uint16)
            rgb = ((inverted[..., :3] * inverted[..., 3:] + 127) // 255).astype(np.uint8)
        else:
            rgb = _decode_jpeg(self._jpeg, "RGB", reduced)
        return _upright(rgb, self._orientation)


def open_image(data: bytes, max_pixels: int) -> OpenImage:
    """Recognise an image and learn its size. Raises ImageError.

    One of more than `max_pixels` is refused from its header, before memory is taken for it.
    """
    kind = _kind(data)
    if kind != "JPEG":
        return _decoded(*_load(kind, data, max_pixels))
    orientation, exif = _jpeg_exif(data)
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # a subsampling that TurboJPEG has no name for, or damage
        color = ""
    if not color:
        # Pillow reads the tags of an EXIF block by itself, and warns of damaged ones.
        stored, _ = _load(kind, data[: exif.start] + data[exif.stop :], max_pixels)
        return _decoded(stored, orientation)
    _check_size(width, height, max_pixels)
    if orientation > 4:
        width, height = height, width
    return OpenImage(width, height, data, color in ("CMYK", "YCCK"), orientation)


def decode_image(data: bytes, *, max_pixels: int, min_scale: float = 1.0) -> np.ndarray:
    """Decode to upright uint8 RGB [H, W, 3], contiguous. Raises ImageError.

    `min_scale` as in `OpenImage.pixels`; evaluation leaves it at 1.
    """
    return open_image(data, max_pixels).pixels(min_scale)


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


# JPEG --------------------------------------------------------------------------------------


def _decode_jpeg(data: bytes, color: str, reduced: dict[str, int]) -> np.ndarray:
    """Pixels as stored, in full or `reduced`.

    What libjpeg only warns of is an error, but for two oddities that leave no pixel undecoded and
    are widespread (the Cats and Dogs photos have both): bytes between picture and end marker, and
    a wrong version number.
    """
    try:
        return simplejpeg.decode_jpeg(data, color, **reduced)
    except ValueError as error:
        reason = str(error)
    if "extraneous bytes before marker 0xd9" in reason:
        return simplejpeg.decode_jpeg(data, color, strict=False, **reduced)
    if "unknown JFIF revision" in reason:  # raised by the decoder even when it is not strict
        major = data.find(b"JFIF\0") + 5
        if data[major] != 1:
            return _decode_jpeg(data[:major] + b"\1" + data[major + 1 :], color, reduced)
    raise ImageError(f"damaged JPEG: {reason}")


def _jpeg_exif(data: bytes) -> tuple[int, slice]:
    """EXIF orientation and where the EXIF segment lies (empty when there is none)."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0xDA, 0xD9):  # the picture itself, or the end
            break
        if marker == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return _orientation(data[at + 10 : end]), slice(at, end)
        at = end
    return 1, slice(len(data), len(data))


def _orientation(tiff: bytes) -> int:
    """Tag 0x0112 of an EXIF block; 1 (upright) when there is none or the block is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == 0x0112:
                form = {1: "B", 3: "H", 4: "I"}[kind]
                (value,) = struct.unpack_from(f"{order}{form}", tiff, entry + 8)
                return value if 1 <= value <= 8 else 1
    except (struct.error, KeyError):
        pass
    return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
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


# Everything else ---------------------------------------------------------------------------

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
        return _rgb(image), _orientation(exif.removeprefix(b"Exif\0\0"))
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # on damaged files Pillow raises whatever it ran into
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"damaged {kind}: {reason}") from None


def _decoded(stored: np.ndarray, orientation: int) -> OpenImage:
    pixels = _upright(stored, orientation)
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
