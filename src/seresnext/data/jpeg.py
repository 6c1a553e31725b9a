"""JPEG files: their header, strict decoding, and decoding no more than a crop needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import simplejpeg

from .orientation import orientation, upright

_BYTES_LEFT = "extraneous bytes before marker 0xd9"


class ImageError(Exception):
    """Bytes that are no image we read. The message is the reason, on one line."""


@dataclass(frozen=True)
class Jpeg:
    """A JPEG to be decoded, and what its header says."""

    data: bytes
    width: int
    """As stored, like the height."""
    height: int
    cmyk: bool
    turned: int
    """EXIF orientation, 1 to 8."""
    height_at: int
    """Where the height stands in `data`; 0 where it must not be changed."""

    def decode(self, factor: int, rows: int = 0) -> np.ndarray:
        """Upright RGB at 1 / factor (1, 2, 4 or 8), rounded up; with `rows`, at least so many of
        the upper ones, counted before the reduction. Raises ImageError."""
        if self.cmyk:
            inverted = self._all("CMYK", factor).astype(np.uint16)
            rgb = ((inverted[..., :3] * inverted[..., 3:] + 127) // 255).astype(np.uint8)
        elif rows and self.turned == 1 and self.height_at:
            return self._top(factor, rows)
        else:
            rgb = self._all("RGB", factor)
        return upright(rgb, self.turned)

    def _all(self, color: str, factor: int) -> np.ndarray:
        """Pixels as stored.

        What libjpeg only warns of is an error, but for two oddities that leave no pixel
        undecoded and are widespread (the Cats and Dogs photos have both): bytes between picture
        and end marker, and a wrong version number.
        """
        size = self._reduced(factor, self.height)
        try:
            return simplejpeg.decode_jpeg(self.data, color, **size)
        except ValueError as error:
            reason = str(error)
        if _BYTES_LEFT in reason:
            return simplejpeg.decode_jpeg(self.data, color, strict=False, **size)
        if "unknown JFIF revision" in reason:  # raised by the decoder even when it is not strict
            major = self.data.find(b"JFIF\0") + 5
            if self.data[major] != 1:
                mended = self.data[:major] + b"\1" + self.data[major + 1 :]
                return replace(self, data=mended)._all(color, factor)
        raise ImageError(f"damaged JPEG: {reason}")

    def _top(self, factor: int, rows: int) -> np.ndarray:
        """The upper `rows` or a few more.

        The header is told that the image ends there. libjpeg then warns of bytes left over, and
        only its first warning is reported: after another one, all is decoded and judged.
        """
        # Interpolating the colours of the last rows takes those of the next row of blocks.
        rows = -(-(rows + 2 * factor) // 16) * 16
        if rows >= self.height:
            return self._all("RGB", factor)
        short = bytearray(self.data)
        short[self.height_at : self.height_at + 2] = rows.to_bytes(2, "big")
        pixels = np.empty((-(-rows // factor), -(-self.width // factor), 3), np.uint8)
        try:
            simplejpeg.decode_jpeg(short, "RGB", buffer=pixels, **self._reduced(factor, rows))
        except ValueError as error:
            if _BYTES_LEFT not in str(error):
                return self._all("RGB", factor)
        return pixels

    def _reduced(self, factor: int, height: int) -> dict[str, int]:
        """The options that make simplejpeg choose this factor."""
        if factor == 1:
            return {}
        return {
            "min_factor": factor,
            "min_width": -(-self.width // factor),
            "min_height": -(-height // factor),
        }


def segments(data: bytes) -> tuple[int, slice, int]:
    """EXIF orientation, where the EXIF segment lies (empty when there is none), and where the
    height stands (0 unless the image is sequential and without restart markers)."""
    turned, exif, height_at, restarts = 1, slice(0, 0), 0, False
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0xDA, 0xD9):  # the picture itself, or the end
            break
        if marker == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if marker == 0xE1 and exif.stop == 0 and data[at + 4 : at + 10] == b"Exif\0\0":
            turned, exif = orientation(data[at + 10 : end]), slice(at, end)
        elif marker in (0xC0, 0xC1):
            height_at = at + 5
        elif marker == 0xDD:
            restarts = True
        at = end
    return turned, exif, 0 if restarts else height_at
