"""Compressed DICOM pixels: what is read, by which decoder, and what a frame says of itself.

pydicom decodes run lengths, Pillow baseline JPEG and OpenJPEG JPEG 2000. JPEG lossless, 12-bit JPEG
and JPEG-LS come from imagecodecs (BSD; libjpeg-turbo and CharLS), as a plug-in of pydicom.
"""

import io
import struct
import threading
from typing import Final

from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import (
    UID,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from fedmed.base.errors import UserError

_JPEG: Final = (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
_JPEGLS: Final = (JPEGLSLossless, JPEGLSNearLossless)

DECODER_DEPENDENCIES: Final = dict.fromkeys((*_JPEG, *_JPEGLS), ("imagecodecs",))
"""Transfer syntaxes that :func:`decode_frame` reads; pydicom asks by this name."""

_PLUGIN: Final = "fedmed"
_adding: Final = threading.Lock()
_END: Final = b"\xff\xd9"
_NO_SIZE: Final = {0xC4, 0xC8, 0xCC}  # tables, among the markers of a frame's size


def is_available(uid: str) -> bool:
    """Whether :func:`decode_frame` reads this transfer syntax; pydicom asks by this name."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Pixels of one frame, little endian, as pydicom's plug-ins give them."""
    import imagecodecs

    by_jpegls = runner.transfer_syntax in _JPEGLS
    if not by_jpegls and not source.rstrip(b"\0\xff").endswith(_END):
        raise ValueError("cut off")  # libjpeg would fill the rest with grey
    frame = (imagecodecs.jpegls_decode if by_jpegls else imagecodecs.jpeg8_decode)(source)
    runner.set_option("bits_allocated", 8 * frame.dtype.itemsize)
    return bytes(frame.astype(frame.dtype.newbyteorder("<"), copy=False).tobytes())


def prepare(dataset: FileDataset, where: str) -> None:
    """Refuse pixels that no decoder reads, or whose own size is not the header's.

    Raises :class:`UserError` that names the compression, before a decoder takes memory.
    """
    uid = dataset.file_meta.TransferSyntaxUID
    if uid.is_transfer_syntax and not uid.is_encapsulated:
        return
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:  # pydicom's word for a syntax that it has no decoder of
        raise _unread(uid, where) from None
    with _adding:
        if uid in DECODER_DEPENDENCIES and _PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(_PLUGIN, (__name__, decode_frame.__name__))
    if not decoder.is_available:
        raise _unread(uid, where)
    size = _size(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if size is not None and size != (int(dataset.Rows), int(dataset.Columns)):
        raise UserError(f"{where}: pixels that do not fit its header; export the image again")


def _unread(uid: UID, where: str) -> UserError:
    kind = "in a private way" if uid.is_private or uid.name == str(uid) else f"as {uid.name}"
    return UserError(
        f"{where}: pixels compressed {kind}, which no decoder here reads; export it uncompressed "
        "or as JPEG 2000"
    )


def _size(frame: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG, JPEG-LS or JPEG 2000 frame says it has; None of run lengths."""
    if frame[:2] == b"\xff\xd8":
        return _jpeg_size(frame)
    if frame[:2] != b"\xff\x4f" and frame[4:8] != b"jP  ":
        return None  # what run lengths unpack to is the header's
    with Image.open(io.BytesIO(frame), formats=("JPEG2000",)) as picture:
        return picture.height, picture.width


def _jpeg_size(frame: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in _NO_SIZE):
            height, width = struct.unpack(">HH", frame[at + 5 : at + 9])
            return height, width
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ValueError("no size")
