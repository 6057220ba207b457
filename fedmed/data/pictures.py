"""PNG, JPEG, TIFF, BMP, WebP and JPEG 2000 files to grey images, and which other formats are named.

A file of 16 bits often holds values of 12: which scale it has is what it says itself, or what
``data.bits-stored`` says for its hospital, and never what other images look like.
"""

import contextlib
import io
import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin
from PIL.ExifTags import Base

from fedmed.base.errors import UserError
from fedmed.data.dicom import silence

READ: Final = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "JPEG2000")
"""Pillow's names of the formats that are read."""

_DEEP: Final = 16
_LEAST_USED: Final = 1 << 14  # a quarter of 16 bits: a film that stays below holds fewer bits
_MARKER: Final = 0.005  # share of a film that a letter or a clip burnt in at full white may have
_OTHERS: Final = (
    (b"GIF8", "GIF"),
    (b"NRRD", "NRRD"),
    (b"ObjectType", "MetaImage"),
    (b"NDims", "MetaImage"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"8BPS", "Photoshop"),
    (b"PK\3\4", "zip"),
    (b"\x89HDF", "HDF5"),
    (b"\x93NUMPY", "numpy"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"Rar!", "RAR"),
    (b"7z\xbc\xaf", "7z"),
)


def picture(data: bytes, name: str, most: int, bits: int = 0) -> NDArray[np.float32]:
    """Grey image, float32 in [0, 1], from the bytes of a picture of at most ``most`` pixels.

    Colour becomes luminance, transparency is dropped, and an EXIF orientation is applied. ``bits``
    is what ``data.bits-stored`` says of 16-bit files, 0 for nothing. Raises :class:`UserError` for
    a format that is not read, a file that is too large and a scale that cannot be known; what
    Pillow raises on a damaged file is left to the caller.
    """
    _check_format(data, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's quote what is in the file
        with Image.open(io.BytesIO(data), formats=READ) as opened:
            if opened.height * opened.width > most:
                raise UserError(
                    f"{name}: larger than {most // 1_000_000} megapixels; reduce it before use"
                )
            if opened.format in ("TIFF", "WEBP") and getattr(opened, "n_frames", 1) > 1:
                raise UserError(f"{name}: several pictures in one file; give one file for each")
            deep, said = _depth(opened, data), _significant(opened, data)
            # Pillow inverts a TIFF whose 0 is white in 8 bits only.
            negative = _tag(opened, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
            with silence() if opened.format in ("TIFF", "JPEG2000") else contextlib.nullcontext():
                opened.load()
            image = _upright(opened)
    if image.mode.startswith("I;16") or (image.mode == "I" and opened.format == "PNG"):
        return _deep_grey(np.asarray(image), said, name, bits, negative)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise UserError(
            f"{name}: pixels of 32 bits, signed or fractional, whose black and white nobody knows; "
            "write it as 8 or 16 bits, or give the DICOM"
        )
    if image.mode not in ("L", "RGB"):
        # Straight to "L" would let a palette's or an alpha channel's numbers through as grey.
        image = image.convert("RGB")
    if deep:
        _check_colour(image, name, bits)
    return scaled(np.array(image.convert("L")), 255)


def scaled(values: NDArray[Any], largest: int) -> NDArray[np.float32]:
    """Values from 0 to ``largest`` as float32 in [0, 1]."""
    result = values.astype(np.float32)
    result /= np.float32(largest)  # in place: the largest images take gigabytes
    return result


def _check_format(data: bytes, name: str) -> None:
    unread = next((kind for start, kind in _OTHERS if data.startswith(start)), "")
    if data[4:8] == b"ftyp":
        unread = "AVIF" if data[8:12] in (b"avif", b"avis") else "HEIC or video"
    if data[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7") and data[2:3].isspace():
        unread = "PNM"
    if unread:
        raise UserError(
            f"{name}: a {unread} file, which is not read as an image; convert it to PNG or DICOM "
            "(a volume to NIfTI)"
        )


def _tag(opened: Image.Image, tag: int) -> int:
    """The largest value of a TIFF's tag, -1 of another file or where it is absent."""
    value = getattr(opened, "tag_v2", {}).get(tag, -1)
    return int(max(value) if isinstance(value, tuple) else value)


def _depth(opened: Image.Image, data: bytes) -> bool:
    """Whether a file in colour (or with transparency) has 16 bits, which Pillow cuts to 8."""
    if opened.format == "PNG":
        return data[24] == _DEEP and data[25] != 0
    return _tag(opened, TiffImagePlugin.BITSPERSAMPLE) == _DEEP


def _upright(opened: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; Pillow has done so with a TIFF."""
    with contextlib.suppress(Exception):  # a bad EXIF is none
        if opened.getexif().get(Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(opened)
    return opened


def _deep_grey(
    values: NDArray[Any], said: int, name: str, bits: int, negative: bool
) -> NDArray[np.float32]:
    """A grey picture of 16 bits, by the largest value that its bits can hold.

    ``said`` are the significant bits of the file's own, 0 for nothing. A marker far above all else
    does not decide; above what the hospital says it is white.
    """
    top = int(values.max())
    if said and top >> said:  # by the standard: few significant bits, spread over all 16
        bits = _DEEP
    elif said:
        bits = said
    elif bits and top >> bits:
        if _share_from(values, 1 << bits) >= _MARKER:
            raise UserError(
                f"{name}: values above {(1 << bits) - 1}, more than data.bits-stored = '{bits}' "
                f"holds; set it to '{_usual(top)}'"
            )
        values = np.minimum(values, (1 << bits) - 1)
    elif not bits and values.min() < top and _share_from(values, _LEAST_USED) < _MARKER:
        film = int(values[values < _LEAST_USED].max())
        marked = " but for a marker" if top >= _LEAST_USED else ""
        raise UserError(
            f"{name}: a 16-bit file that uses {film.bit_length()} bits{marked}, as those of "
            f"{_usual(film)}-bit detectors do, and would come out nearly black; set "
            f"data.bits-stored = '{_usual(film)}' (or '16' if it is that dark)"
        )
    largest = (1 << (bits or _DEEP)) - 1
    return scaled(largest - values if negative else values, largest)


def _share_from(values: NDArray[Any], least: int) -> float:
    """Share of the values that are at least so large."""
    return float(np.count_nonzero(values >= least)) / values.size


def _usual(top: int) -> int:
    """The bits of the usual detectors (10, 12, 14, 16) that hold a value."""
    return max(10, -(-top.bit_length() // 2) * 2)


def _check_colour(image: Image.Image, name: str, bits: int) -> None:
    top = int(np.asarray(image).max()) + 1
    if bits not in (0, _DEEP) or 1 < top <= _LEAST_USED >> 8:
        raise UserError(
            f"{name}: colour of 16 bits of which few are used, or data.bits-stored is set; write "
            "it as a grey 16-bit PNG"
        )


def _significant(opened: Image.Image, data: bytes) -> int:
    """Bits that a PNG's sBIT or a TIFF of 12 says are significant, 0 for nothing or all 16."""
    if _tag(opened, TiffImagePlugin.BITSPERSAMPLE) == 12:
        return 12
    if data[:4] != b"\x89PNG":
        return 0
    at = 8
    while at + 9 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        if data[at + 4 : at + 8] == b"sBIT":
            said = data[at + 8]
            return said if 0 < said < _DEEP else 0
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return 0
