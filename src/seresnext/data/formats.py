"""Kinds of files: which are images that we read, and what to do about the others."""

from __future__ import annotations

from collections.abc import Iterable

READ = "JPEG, PNG, WebP, AVIF, HEIC, GIF, TIFF or BMP"
EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png"),
    *(".tif", ".tiff", ".webp"),
)
"""Files with these endings are listed (in any case); the content decides how they are decoded."""

CONVERT = "convert it to JPEG or PNG"
_RAW = "a camera's raw file"
_OTHERS = {
    (".jxl",): "JPEG XL",
    (".jp2", ".j2k", ".jpx"): "JPEG 2000",
    (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"): _RAW,
    (".psd",): "Photoshop",
    (".svg",): "SVG",
    (".ppm", ".pgm", ".pnm", ".tga", ".ico", ".dcm"): "an unusual format",
}
"""Endings of images that are not read -> what they are."""
_STARTS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"8BPS": "a Photoshop file",
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"%PDF": "a PDF",
    b"<htm": "a web page",
    b"<HTM": "a web page",
    b"<!do": "a web page",
    b"<!DO": "a web page",
    b"<svg": "an SVG",
    b"<?xm": "an XML file",
    b"version https://git-lfs": "a Git LFS pointer instead of the file (git lfs pull fetches it)",
}
"""First bytes of files that are not read -> what they are."""


def recognise(data: bytes) -> str:
    """Return the format of an image that we read, from its first bytes; empty for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if data.startswith(b"BM"):
        return "BMP"
    return _in_boxes(data) if data[4:8] == b"ftyp" else ""


def _in_boxes(data: bytes) -> str:
    """Return the format of an ISO media file, by its brands (ISO/IEC 14496-12, section 4.3)."""
    end = min(int.from_bytes(data[:4], "big"), len(data), 512)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & {b"heic", b"heix", b"heim", b"heis", b"mif1", b"hevc"} else ""


def described(data: bytes) -> str:
    """Return what a file is that we do not read, and what to do, for a message."""
    if not data:
        return "empty file"
    if data[4:8] == b"ftyp":
        return f"a video or another ISO media file; expected {READ}"
    head = data.lstrip(b" \t\r\n")
    found = next((what for start, what in _STARTS.items() if head.startswith(start)), "")
    if found.startswith(("JPEG", "a Photoshop")):
        return f"{found}, which is not read; {CONVERT}"
    return f"{found or 'no image that is known'}; expected {READ}"


def remedies(endings: Iterable[str]) -> list[str]:
    """Return what to do about images among files with these endings, a sentence for each format."""
    known = {ending: what for group, what in _OTHERS.items() for ending in group}
    found = dict.fromkeys((ending, known[ending]) for ending in sorted(endings) if ending in known)
    return [f"{ending} is {what}, which is not read: {CONVERT}" for ending, what in found]
