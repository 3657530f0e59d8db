"""Which image formats are read, and the names of formats that are recognised but not read."""

from functools import cache
from typing import BinaryIO

from PIL import Image, TiffImagePlugin

READ = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "MPO"),
    *("PPM", "TGA", "ICO", "QOI", "SGI", "PCX", "DIB"),
)
"""Pillow's names of the formats that are read. Other formats run programs (EPS), draw vectors (WMF), or may decode to
another size than their header declares (AVIF)."""

_MARKS = (
    *((0, b"%PDF", "PDF"), (0, b"\x76\x2f\x31\x01", "OpenEXR"), (0, b"#?RADIANCE", "Radiance HDR")),
    *((0, b"\xff\x0a", "JPEG XL"), (4, b"JXL \r\n\x87\n", "JPEG XL"), (0, b"<svg", "SVG")),
    *((4, b"ftyp" + brand, "HEIF") for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")),
)
"""(offset, bytes, name) of formats that Pillow does not know."""
_BY_MARK = (
    *("AVIF", "BLP", "BUFR", "CUR", "DCX", "DDS", "EPS", "FITS", "FLI", "FTEX", "GRIB", "HDF5", "ICNS", "MPEG"),
    *("MSP", "PSD", "SUN", "WMF", "XBM", "XPM"),
)
"""Formats that Pillow knows by their first bytes and that are not read here."""

NOT_READ = tuple(sorted({*_BY_MARK, *(name for _, _, name in _MARKS), "TIFF"}))
"""All names that `unread` may return."""


@cache
def formats_read() -> tuple[str, ...]:
    """Return the formats of READ that the installed Pillow supports."""
    Image.init()
    return tuple(name for name in READ if name in Image.OPEN)


def unread(file: BinaryIO) -> str | None:
    """Return one of NOT_READ, by the first bytes; None for a format that is read and for an unknown one.

    Nothing is decoded and no program is run. Call it for files that Pillow could not identify: a TIFF whose directory
    is complete then has a kind of pixels that Pillow does not support.
    """
    Image.init()
    start = _start(file)
    for offset, mark, name in _MARKS:
        if start[offset:].startswith(mark):
            return name
    if _accepts("TIFF", start):
        return "TIFF" if _has_size(file) else None
    return next((name for name in _BY_MARK if _accepts(name, start)), None)


def is_begun(file: BinaryIO) -> bool:
    """Return whether the file begins like a format that is read."""
    start = _start(file)
    return any(_accepts(name, start) for name in formats_read() if name != "DIB")  # a DIB begins with a small number


def _start(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(16)


def _accepts(name: str, start: bytes) -> bool:
    accepts = Image.OPEN[name][1] if name in Image.OPEN else None
    return accepts is not None and accepts(start) is True


def _has_size(tiff: BinaryIO) -> bool:
    """Return whether the first directory can be read and contains width and height."""
    tiff.seek(0)
    try:
        header = tiff.read(8)
        header += tiff.read(8) if header[2:3] == b"\x2b" or header[3:4] == b"\x2b" else b""  # BigTIFF
        directory = TiffImagePlugin.ImageFileDirectory_v2(header)
        tiff.seek(directory.next)
        directory.load(tiff)
    except Exception:  # malformed bytes raise nearly any error
        return False
    return {TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH} <= set(directory)
